"""A game of TextArena for one player, played in plain text."""

from __future__ import annotations

import functools
import importlib
import random
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from textarena import ObservationType
from textarena.envs.registration import ENV_REGISTRY

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.adapter import CatalogueEnv, adapter_class
from verl_agent_env.envs.catalogue.chance import RandomStandIn
from verl_agent_env.envs.catalogue.quiet import silence
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action, Content

_PACKAGE = "textarena"
_chance = RandomStandIn()
_GUESSED_WORDS = (
    "up",
    "down",
    "left",
    "right",
    "w",
    "a",
    "s",
    "d",
    "hit",
    "stand",
    "red",
    "blue",
    "e",
    "continue",
    "accept",
)


class TextArenaArguments(EnvArguments):
    """Keyword arguments of TextArena's games."""

    max_steps: int = Field(default=1_000, ge=1, le=1_000_000)
    """Moves after which the episode is truncated, if the game's own limit is not reached before."""


class TextArenaEnv(CatalogueEnv):
    """Play a game of TextArena for one player.

    ## Action Space

    The tool ``play(move)``, or plain text: a move as the game asks for it, usually in square brackets; around a move without
    brackets they are put.

    ## Observation

    What the game says: its rules at first, then what came of the move, and the board where there is one.

    ## Rewards

    What the game gives at its end; 0 before.

    ## Episode End

    Terminated as the game says, also after moves that it does not take; ``success`` in the info if the game gives 1.

    ## Arguments

    See :class:`TextArenaArguments`.
    """

    Arguments: ClassVar[type[EnvArguments]] = TextArenaArguments
    tools = (
        Tool(
            "play",
            "Make a move.",
            {
                "type": "object",
                "properties": {
                    "move": {"type": "string", "description": "The move, as the game asks for it."},
                },
                "required": ["move"],
                "additionalProperties": False,
            },
        ),
    )
    game_id: ClassVar[str]
    arguments: TextArenaArguments

    __slots__ = ("_generator", "_said", "game")

    def task_prompt_text(self) -> str:
        return "Play the game. Each turn, make one move in the form that the game asks for."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "the games of TextArena take no options"))
        self._generator = random.Random(self.episode_seed)
        with _chance.drawing_from(self._generator):
            self.game: Any = _make_game(self.game_id)
            self.game.reset(num_players=1, seed=self.episode_seed)
            self._said = self._new_words()

    def observe(self) -> Content:
        return self._said

    def act(self, call: ToolCall) -> Outcome:
        move = call.arguments["move"].strip()
        if "[" not in move:
            move = f"[{move}]"
        with _chance.drawing_from(self._generator):
            done, _ = self.game.step(move)
            self._said = self._new_words()
        if not done:
            return Outcome()
        state = self.game.state
        reason = state.game_info[0].get("reason")
        self._said = "\n".join(
            part for part in (self._said, f"The game is over. {reason or ''}".strip()) if part
        )
        paid = (state.rewards or {}).get(0, 0.0)
        # Some games hand over the reason in the place of the reward, of moves that they do not take.
        reward = float(paid) if isinstance(paid, int | float) else 0.0
        return Outcome(reward=reward, terminated=True, success=reward >= 1.0)

    def call_from_word(self, word: str) -> ToolCall:
        return ToolCall("play", {"move": word})

    def sample_action(self, dice: random.Random) -> Action:
        """A move that some game or other takes."""
        numbers = [dice.randrange(8) for _ in range(2)]
        move = dice.choice([f"{numbers[0]} {numbers[1]}", f"{numbers[0]}", dice.choice(_GUESSED_WORDS)])
        return f"[{move}]"

    def _new_words(self) -> str:
        """Return the game's messages since the last call, without the model's own moves."""
        _, messages = self.game.get_observation()
        return "\n".join(
            str(text).strip() for _, text, kind in messages if kind is not ObservationType.PLAYER_ACTION
        )


def _make_game(game_id: str) -> Any:
    """The package's game, without its wrappers, which write the whole conversation into each observation."""
    spec = ENV_REGISTRY[game_id]
    return _game_class(spec.entry_point)(**spec.kwargs)


@functools.cache
def _game_class(entry_point: str) -> Any:
    module, _, name = entry_point.partition(":")
    found = getattr(importlib.import_module(module), name)
    _chance.install(_PACKAGE)
    silence(_PACKAGE)
    return found


def make_class(short: str, spec: EnvSpec) -> type[TextArenaEnv]:
    """The class of the game of this id."""
    return adapter_class(TextArenaEnv, spec, game_id=short)
