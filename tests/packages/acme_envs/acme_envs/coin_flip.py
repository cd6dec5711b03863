"""CoinFlip: guess how a coin falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Content

SIDES = ("heads", "tails")


class CoinFlipArguments(EnvArguments):
    """Keyword arguments of CoinFlip."""

    num_flips: int = Field(default=3, ge=1, le=1000)
    """Right guesses that end the episode."""
    bias: float = Field(default=0.5, ge=0.0, le=1.0)
    """Chance of heads."""


class CoinFlipEnv(ChatEnv):
    """Guess which side of a coin comes up.

    ## Action Space

    One tool, ``guess``, with the argument ``side``: heads or tails. In plain text the two words do as well.

    ## Observation

    Whether the guess was right, and how many right guesses are missing.

    ## Rewards

    1 for a right guess, 0 otherwise.

    ## Episode End

    Terminated after ``num_flips`` right guesses; truncated after ``max_steps`` guesses (100).

    ## Arguments

    See :class:`CoinFlipArguments`.
    """

    env_name = "acme/coin_flip-v0"
    Arguments: ClassVar[type[EnvArguments]] = CoinFlipArguments
    tools = (
        Tool(
            "guess",
            "Guess the side that comes up.",
            {
                "type": "object",
                "properties": {"side": {"type": "string", "enum": list(SIDES)}},
                "required": ["side"],
                "additionalProperties": False,
            },
        ),
    )
    arguments: CoinFlipArguments

    def task_prompt_text(self) -> str:
        return "A coin is flipped again and again. Guess its side each time: heads or tails."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self._missing = self.arguments.num_flips
        # The coin has fallen already when the guess is made: a secret of the episode.
        self._fallen = self._flip()

    def call_from_word(self, word: str) -> ToolCall:
        side = word.strip(" .!").casefold()
        return ToolCall("guess", {"side": side}) if side in SIDES else super().call_from_word(word)

    def act(self, call: ToolCall) -> Outcome:
        side = call.arguments["side"]
        if side not in SIDES:
            return Outcome(fault="The side is heads or tails.", effective=False)
        right = side == self._fallen
        self._missing -= right
        self._fallen = self._flip()
        done = self._missing == 0
        return Outcome(self._said(right), float(right), terminated=done, success=done)

    def observe(self) -> Content:
        return f"{self._missing} right guesses are missing."

    def secrets(self) -> Sequence[str]:
        return (f"next: {self._fallen}",)

    def dump_state(self) -> Any:
        return [self._missing, self._fallen]

    def load_state(self, state: Any) -> None:
        self._missing, self._fallen = state

    def _said(self, right: bool) -> str:
        return f"{'Right' if right else 'Wrong'}. {self.observe()}"

    def _flip(self) -> str:
        # Gymnasium's generator, as authors know it; it is part of the snapshot.
        return SIDES[0] if self.np_random.random() < self.arguments.bias else SIDES[1]
