"""Layouts of environments of other packages: by their hooks, or by their state and first observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.layouts import layout_hash
from verl_agent_env.integrations.datasets.layouts import difficulty, layout_arguments
from verl_agent_env.types import Action, Observation


def hash_of(env: gymnasium.Env[Any, Any], seed: int) -> str:
    return layout_hash(env, env.reset(seed=seed)[0])


class MirroredLake(FrozenLakeEnv):
    """A lake that counts as the same problem whatever its seed is."""

    def layout(self) -> Any:
        return ["mirrored", self.arguments.size]

    def layout_arguments(self) -> dict[str, Any]:
        return {"size": self.arguments.size}

    def difficulty(self) -> float | None:
        return 0.25


def test_hooks_of_an_environment_decide() -> None:
    env = MirroredLake(size=4)
    assert hash_of(env, 1) == hash_of(env, 2) != hash_of(FrozenLakeEnv(size=4), 1)
    assert layout_arguments(env) == {"size": 4}
    assert difficulty(env, "auto") == 0.25
    solution = env.solution()
    assert solution is not None
    assert difficulty(env, "actions") == len(solution)


class Remainders(ChatEnv):
    """Has no hooks for layouts; every fifth seed gives the same state."""

    def task_prompt_text(self) -> str:
        return "Do nothing."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self.rest = self.episode_seed % 5

    def dump_state(self) -> Any:
        return self.rest


def test_without_hooks_state_and_first_observation_decide() -> None:
    env = Remainders()
    assert hash_of(env, 1) == hash_of(env, 6) != hash_of(env, 2)
    assert hash_of(env, 1) != hash_of(Remainders(task_prompt="Do something."), 1)
    assert env.layout() is None
    assert layout_arguments(env) == {}
    assert difficulty(env, "auto") is None


class Plain(gymnasium.Env[Observation, Action]):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return [{"role": "user", "content": f"Seed {seed}."}], {}


def test_environment_that_is_only_gymnasiums_is_known_by_its_first_observation() -> None:
    assert hash_of(Plain(), 1) == hash_of(Plain(), 1) != hash_of(Plain(), 2)
    assert difficulty(Plain(), "auto") is None
    assert layout_arguments(Plain()) == {}
