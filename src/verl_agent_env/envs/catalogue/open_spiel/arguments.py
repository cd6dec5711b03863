"""Arguments of OpenSpiel's games."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, create_model

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.open_spiel.game import Game

_FEWEST_STEPS, _MOST_STEPS = 16, 1_000
"""Default limits of steps: illegal moves count as well, also in a game of one move."""


class GameArguments(EnvArguments):
    """Keyword arguments of OpenSpiel's games."""

    seat: int | None = Field(default=None, ge=0)
    """The model's seat, from 0; when not given, the seed decides. A game for one player has seat 0 only."""
    opponent: Literal["random", "first", "mcts"] = "random"
    """Who plays the other seats: ``random`` moves, the ``first`` legal move, or Monte Carlo tree search (``mcts``, in games of
    perfect information)."""
    mcts_simulations: int = Field(default=50, ge=2, le=2_000)
    """Simulations for each move of ``mcts``."""
    max_shown_moves: int = Field(default=60, ge=1, le=1_000)
    """Legal moves that an observation shows; ``list_moves`` tells the rest."""


def arguments_of(game: Game) -> type[GameArguments]:
    """The model of a game's arguments: its seats, its length, and the opponents that it can have."""
    fields: dict[str, Any] = {
        "max_steps": (
            int,
            Field(
                default=max(_FEWEST_STEPS, min(game.max_length, _MOST_STEPS)),
                ge=1,
                le=1_000_000,
                description=EnvArguments.model_fields["max_steps"].description,
            ),
        ),
        "seat": (
            int | None,
            Field(
                default=None,
                ge=0,
                le=game.num_players - 1,
                description=GameArguments.model_fields["seat"].description,
            ),
        ),
    }
    if not game.allows_search:
        description = "Who plays the other seats: ``random`` moves, or the ``first`` legal move."
        fields["opponent"] = (Literal["random", "first"], Field(default="random", description=description))
    return create_model(f"{game.name}_arguments", __base__=GameArguments, **fields)
