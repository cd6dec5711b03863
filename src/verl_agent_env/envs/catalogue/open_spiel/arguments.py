"""Arguments of OpenSpiel's games."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, create_model, model_validator

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.open_spiel.game import Game

_FEWEST_STEPS, _MOST_STEPS = 16, 1_000
"""Default limits of steps: illegal moves count as well, also in a game of one move."""


class GameArguments(EnvArguments):
    """Keyword arguments of OpenSpiel's games."""

    seat: int | None = Field(default=None, ge=0)
    """The model's seat against the server, from 0; when not given, the seed decides. A game for one player has seat 0 only."""
    opponent: Literal["random", "first", "mcts", "self"] = "random"
    """Who plays the other seats: ``random`` moves, the ``first`` legal move, Monte Carlo tree search (``mcts``, in games of
    perfect information), or nobody but the model itself and other clients (``self``, in games of several players)."""
    mcts_simulations: int = Field(default=50, ge=2, le=2_000)
    """Simulations for each move of ``mcts``."""
    max_shown_moves: int = Field(default=60, ge=1, le=1_000)
    """Legal moves that an observation shows; ``list_moves`` tells the rest."""

    @model_validator(mode="after")
    def _is_one_move_of_each(self) -> Self:
        if self.opponent == "self" and self.max_actions_per_turn > 1:
            raise ValueError("between seats max_actions_per_turn is 1: the next move may be another seat's")
        return self


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
    known: list[str] = ["random", "first"]
    described = ["``random`` moves", "the ``first`` legal move"]
    if game.allows_search:
        known.append("mcts")
        described.append("Monte Carlo tree search (``mcts``)")
    if game.num_players > 1:
        known.append("self")
        described.append("nobody but the model itself and other clients (``self``)")
    description = f"Who plays the other seats: {', '.join(described[:-1])}, or {described[-1]}."
    fields["opponent"] = (Literal[tuple(known)], Field(default="random", description=description))
    return create_model(f"{game.name}_arguments", __base__=GameArguments, **fields)
