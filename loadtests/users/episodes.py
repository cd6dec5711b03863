"""Which environments the load tests play, and what is done in them: random moves that are valid."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

Policy = Callable[[], orjson.Fragment]
"""Gives an action each time it is called, as JSON."""

_SEEDS = 1_000_000
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Kind:
    """What an episode is made of."""

    env_name: str
    env_kwargs: Mapping[str, Any]
    policy: Callable[[Any], Policy]
    """From the episode's first observation to what is done in it."""


class Episode:
    """An environment on the server and where its episode stands, as far as its player knows."""

    __slots__ = ("_action", "_policy", "env_id", "kind", "seq")

    def __init__(self, kind: Kind, env_id: str, observation: Any) -> None:
        self.kind = kind
        self.env_id = env_id
        self.begin(observation)

    def begin(self, observation: Any) -> None:
        """Another episode of the environment begins."""
        self._policy = self.kind.policy(observation)
        self._action: orjson.Fragment | None = None
        self.seq = 0
        """The number of the step to take, from 0."""

    @property
    def action(self) -> orjson.Fragment:
        """What to do in this step: the same each time it is asked, because a step that is sent again must not change."""
        if self._action is None:
            self._action = self._policy()
        return self._action

    def advance(self) -> None:
        """The step was taken."""
        self._action = None
        self.seq += 1


def tool_call(name: str, arguments: Mapping[str, Any] | None = None) -> bytes:
    """An assistant's message that calls a tool, as JSON."""
    function = {"name": name, "arguments": orjson.dumps(arguments or {}).decode()}
    call = {"id": "call_1", "type": "function", "function": function}
    return orjson.dumps({"role": "assistant", "content": "", "tool_calls": [call]})


_EQUATION = tool_call("test_equation", {"equation": "1 + 2"})


def _any_of(prefix: str) -> Callable[[Any], Policy]:
    moves = [
        orjson.Fragment(tool_call(f"{prefix}_{direction}")) for direction in ("left", "down", "right", "up")
    ]
    # Written once and shared by all episodes: a step is to cost the load generator next to nothing.
    return lambda _: lambda: random.choice(moves)


def _equations(observation: Any) -> Policy:
    """Equations of the puzzle's own numbers, in any order and with any signs."""
    shown = observation[-1]["content"].partition("Target")[0]
    numbers = _NUMBER.findall(shown[shown.rfind("Numbers") :])

    def equation() -> orjson.Fragment:
        random.shuffle(numbers)
        text = numbers[0] + "".join(f" {random.choice('+-*')} {number}" for number in numbers[1:])
        return orjson.Fragment(_EQUATION.replace(b"1 + 2", text.encode()))

    return equation


KINDS: Mapping[str, Kind] = {
    "frozen_lake": Kind("frozen_lake", {"size": 8, "max_steps": 40}, _any_of("move")),
    "sokoban": Kind("sokoban", {"dim_room": [6, 6], "num_boxes": 1, "max_steps": 60}, _any_of("push")),
    "countdown": Kind("countdown", {"num_numbers": 4, "max_steps": 5}, _equations),
}


@dataclass(frozen=True)
class Mix:
    """Kinds of episodes and how often each is taken."""

    kinds: Sequence[Kind]
    weights: Sequence[float]

    @classmethod
    def parse(cls, text: str) -> Mix:
        """Of text such as ``frozen_lake=2,sokoban=1``.

        Raises:
            ValueError: The text is not of this form, names another kind, or all weights are 0.
        """
        weights: dict[str, float] = {}
        for part in text.split(","):
            name, _, weight = part.strip().partition("=")
            if name not in KINDS:
                raise ValueError(f"'{name}' is none of {', '.join(KINDS)}")
            weights[name] = float(weight or 1)
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError("weights must not be negative, and one must be positive")
        return cls([KINDS[name] for name in weights], list(weights.values()))

    def draw(self, count: int) -> list[Kind]:
        """So many kinds."""
        return random.choices(self.kinds, self.weights, k=count)


def draw_seed() -> int:
    """A seed."""
    return random.randrange(_SEEDS)


def initialize_body(kinds: Sequence[Kind], run_id: str) -> dict[str, Any]:
    """The body of ``batch/initialize`` for one environment of each entry of ``kinds``."""
    return {
        "env_names": [kind.env_name for kind in kinds],
        "env_kwargs": [kind.env_kwargs for kind in kinds],
        "seeds": [draw_seed() for _ in kinds],
        "run_id": run_id,
    }


def step_body(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The body of ``batch/step`` for the next step of each episode."""
    return {
        "env_ids": [episode.env_id for episode in episodes],
        "actions": [episode.action for episode in episodes],
        "seqs": [episode.seq for episode in episodes],
    }
