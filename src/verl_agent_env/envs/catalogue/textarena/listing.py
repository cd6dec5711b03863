"""The games of TextArena that need no network, as the package registers them, each for as few players as it takes."""

from __future__ import annotations

import random
from typing import Any

import textarena
from textarena.envs.registration import ENV_REGISTRY

from verl_agent_env.envs.catalogue.adapter import adapter_class
from verl_agent_env.envs.catalogue.family import Listing
from verl_agent_env.envs.catalogue.textarena.env import TextArenaEnv
from verl_agent_env.envs.spec import EnvSpec

_VARIANTS = ("-raw", "-train")
"""Endings of the names under which a game is registered again, with other wrappers."""
_MOST_PLAYERS = 8
_TRIED_MOVES = 6
_LEFT_OUT = {
    "SecretMafia-v0": "a move of a certain form is looked at for ever",
    "Sokoban-v0-medium": "it looks for a room for up to a minute",
    "Sudoku-v0-hard": "it looks for a puzzle for minutes",
}


def read() -> Listing:
    """Find all games, and try to begin each of them."""
    _forbid_downloads()
    environments: dict[str, tuple[str, list[str]]] = {}
    left_out = dict(_LEFT_OUT)
    for game_id in sorted(ENV_REGISTRY):
        if game_id.endswith(_VARIANTS) or game_id in left_out:
            continue
        if "/" in game_id:
            left_out[game_id] = "its name holds a slash"
            continue
        try:
            players = _fewest_players(game_id)
        except Exception as failed:  # noqa: BLE001 - whatever the package raises is the cause
            left_out[game_id] = _cause(failed)
            continue
        whose = "" if players == 1 else f" for {players} players"
        tags = ["multi-turn", f"{players}-player"]
        environments[game_id] = (f"{_words(game_id)}{whose}, in plain text.", tags)
    return Listing(environments, left_out)


def _fewest_players(game_id: str) -> int:
    """Return the smallest number of players with which a game begins."""
    for players in range(1, _MOST_PLAYERS + 1):
        spec = EnvSpec(f"textarena/{game_id}", "")
        env = adapter_class(TextArenaEnv, spec, game_id=game_id, num_players=players)()
        try:
            env.reset(seed=0)
        except Exception as failed:
            if players == _MOST_PLAYERS or "player" not in str(failed).casefold():
                raise
            continue
        if players > 1 or isinstance(env.game.state, textarena.SinglePlayerState):
            _try_moves(env)
            return players
    raise ValueError(f"it needs more than {_MOST_PLAYERS} players")


def _try_moves(env: TextArenaEnv) -> None:
    """Make a few moves, whatever they are: some games fail at the first one."""
    dice = random.Random(0)
    for _ in range(_TRIED_MOVES):
        if not env.ended:
            env.step(env.sample_action(dice))


def _cause(failed: Exception) -> str:
    """Explain why a game cannot be begun, without what is specific to this machine."""
    said = str(failed)
    if "player" in said.casefold():
        return f"it cannot be begun with up to {_MOST_PLAYERS} players"
    if "API" in said:
        return "it needs the key of an API"
    causes: tuple[tuple[type[Exception], str], ...] = (
        (SyntaxError, "it needs a newer Python"),
        (ConnectionError, "it downloads data of nltk"),
        (FileNotFoundError, "the package lacks files of it"),
        (ImportError, "it imports what the package does not bring"),
    )
    found = next((cause for kind, cause in causes if isinstance(failed, kind)), "")
    return found or f"it cannot be begun: {type(failed).__name__}"


def _forbid_downloads() -> None:
    import nltk

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("it wants to download data of nltk")

    nltk.download = refuse


def _words(game_id: str) -> str:
    name, _, rest = game_id.partition("-v0")
    return f"{name} ({rest.strip('-').replace('-', ' ')})" if rest else name
