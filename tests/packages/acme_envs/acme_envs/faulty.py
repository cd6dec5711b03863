"""FaultyCoin: a coin game with one fault of choice, for the checker to find. It is no entry point."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.spaces import ObservationSpace
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action, Info, Observation

from .coin_flip import SIDES, CoinFlipArguments, CoinFlipEnv

Fault = Literal[
    "none",
    "leaks_in_info",
    "leaks_in_observation",
    "leaks_solution_list",
    "spoiling_key",
    "global_random",
    "seeds_global_random",
    "module_state",
    "salted_hash",
    "unseeded",
    "snapshot_forgets",
    "snapshot_huge",
    "raises_on_bad_action",
    "not_json",
    "reward_is_nan",
    "observation_outside_space",
    "shared_info",
    "space_per_instance",
    "bad_schema",
    "never_truncates",
    "steps_after_end",
    "loses_tool_messages",
]

_SHARED: dict[str, Any] = {}
_GUESSES = [0]


class FaultyCoinArguments(CoinFlipArguments):
    """Keyword arguments of FaultyCoin."""

    fault: Fault = "none"
    """What is wrong with it."""


class FaultyCoinEnv(CoinFlipEnv):
    """A coin game that is broken in one way."""

    env_name = "acme/faulty_coin-v0"
    Arguments: ClassVar[type[EnvArguments]] = FaultyCoinArguments
    arguments: FaultyCoinArguments

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, **kwargs)
        if self.arguments.fault == "space_per_instance":
            self.observation_space = ObservationSpace()
        if self.arguments.fault == "bad_schema":
            self.tools = (  # type: ignore[misc]
                Tool("guess", "Guess.", {"type": "object", "properties": {"side": {"type": 5}}}),
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        observation, info = super().reset(seed=seed, options=options)
        return observation, self._spoiled(info)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        fault = self.arguments.fault
        if fault == "raises_on_bad_action" and not isinstance(action, dict):
            raise TypeError("an action is a dict")
        if fault == "steps_after_end" and self.ended:
            return [{"role": "user", "content": "It is over."}], 0.0, True, False, {}
        observation, reward, terminated, truncated, info = super().step(action)
        if fault == "leaks_in_observation":
            observation[-1]["content"] += f" By the way, next: {self._fallen}"
        if fault == "observation_outside_space":
            observation = [{"role": "robot", "content": ""}]
        if fault == "loses_tool_messages":
            observation = observation[:1]
        if fault == "reward_is_nan":
            reward = float("nan")
        if fault == "never_truncates":
            truncated = self._ended = False
        return observation, reward, terminated, truncated, self._spoiled(info)

    def act(self, call: ToolCall) -> Outcome:
        _GUESSES[0] += 1
        return super().act(call)

    def dump_state(self) -> Any:
        if self.arguments.fault == "snapshot_forgets":
            return [self.arguments.num_flips, self._fallen]
        if self.arguments.fault == "snapshot_huge":
            return [*super().dump_state(), "x" * 100_000]
        return super().dump_state()

    def load_state(self, state: Any) -> None:
        super().load_state(state[:2])

    def secrets(self) -> Sequence[str]:
        return (f"next: {self._fallen}",)

    def solution(self) -> list[Action] | None:
        return [self._fallen] if self._missing == 1 else None

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if self.arguments.fault == "seeds_global_random":
            random.seed(self.episode_seed)
        super().begin_episode(options)

    def _spoiled(self, info: Info) -> Info:
        fault = self.arguments.fault
        if fault == "leaks_in_info":
            return {**info, "debug": {"coin": [f"next: {self._fallen}"]}}
        if fault == "leaks_solution_list":
            return {**info, "plan": [self._fallen]}
        if fault == "spoiling_key":
            return {**info, "target_equation": "?"}
        if fault == "not_json":
            return {**info, "sides": set(SIDES)}
        if fault == "shared_info":
            _SHARED.update(info)
            return _SHARED
        return info

    def _flip(self) -> str:
        return SIDES[self._drawn()]

    def _drawn(self) -> int:
        fault = self.arguments.fault
        if fault in ("global_random", "seeds_global_random"):
            return random.randrange(2)
        if fault == "module_state":
            return _GUESSES[0] % 2
        if fault == "salted_hash":
            return hash(f"{self.episode_seed} {self.num_steps}") % 2
        if fault == "unseeded":
            return random.SystemRandom().randrange(2)
        return int(self.np_random.integers(2))
