"""The families of the catalogue."""

from __future__ import annotations

from verl_agent_env.envs.catalogue.family import Family

REASONING_GYM = Family(
    name="reasoning_gym",
    title="Reasoning Gym",
    summary="Questions made from a seed, answered in one turn: arithmetic, algebra, logic, puzzles, graphs, code.",
    extra="reasoning-gym",
    distribution="reasoning-gym",
    module="reasoning_gym",
    licence="Apache-2.0",
    sample="chain_sum",
)

MINIGRID = Family(
    name="minigrid",
    title="MiniGrid and BabyAI",
    summary="Grid worlds that are seen in part, with missions in words: find, fetch, open, put next to each other.",
    extra="minigrid",
    distribution="minigrid",
    module="minigrid",
    licence="MIT",
    sample="BabyAI-GoToLocal-v0",
)

OPEN_SPIEL = Family(
    name="open_spiel",
    title="OpenSpiel",
    summary="Games of boards, cards and dice against one or more opponents, and some for one player.",
    extra="open-spiel",
    distribution="open-spiel",
    module="pyspiel",
    licence="Apache-2.0",
    sample="leduc_poker",
)

TEXTARENA = Family(
    name="textarena",
    title="TextArena",
    summary="Games that are played in plain text, alone or at all of their seats.",
    extra="textarena",
    distribution="textarena",
    module="textarena",
    licence="MIT",
    sample="Minesweeper-v0",
)

FAMILIES: tuple[Family, ...] = (MINIGRID, OPEN_SPIEL, REASONING_GYM, TEXTARENA)
"""All of them, in the order in which they are listed."""
