"""The same seed and actions are the same episode through every door."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.depth import examples
from tests.server.api.wires.doors import DOORS, Seen, text_of
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.types import Action

EPISODES = 20
"""Of ``make deep``; a few of them every day."""
_LONGEST = 8
KINDS: dict[str, dict[str, Any]] = {
    "verl_env/frozen_lake-v1": {"size": 4},
    "verl_env/sokoban-v0": {"dim_room": [6, 6], "num_boxes": 1},
    "verl_env/countdown-v0": {},
    "verl_env/single_turn_chat-v0": {
        "task_prompt": "What is 2 + 2?", "scorer": {"type": "exact_match", "answer": "4"},
    },
}  # fmt: skip


@functools.cache
def reference(env_name: str) -> list[tuple[int, list[Action], list[Seen]]]:
    """Random episodes, played in this process: seed, actions, and what was seen."""
    dice = random.Random(env_name)
    seeds = [dice.getrandbits(40) for _ in range(examples(4, EPISODES))]
    return [(seed, *random_episode(env_name, KINDS[env_name], seed, ("sideways", ""))) for seed in seeds]


def random_episode(
    env_name: str, env_kwargs: dict[str, Any], seed: int, mistakes: Sequence[str]
) -> tuple[list[Action], list[Seen]]:
    """A random episode, played in this process: actions, and what was seen."""
    kind = default_registry().kind(env_name)
    env = kind.build(kind.validate(env_kwargs))
    assert isinstance(env, ChatEnv)
    dice, actions = random.Random(seed), list[Action]()
    seen = [Seen.beginning(text_of(env.reset(seed=seed)[0]))]
    while len(actions) < _LONGEST and not env.ended:
        # Now and then something that cannot be carried out.
        action = dice.choice(mistakes) if dice.random() < 0.1 else env.sample_action(dice)
        actions.append(action)
        seen.append(Seen.of(*env.step(action)))
    return actions, seen


@pytest.mark.parametrize("door_name", DOORS)
@pytest.mark.parametrize("env_name", KINDS)
def test_every_door_shows_the_same_episode(http: httpx.Client, env_name: str, door_name: str) -> None:
    door = DOORS[door_name](http)
    try:
        for seed, actions, expected in reference(env_name):
            seen = [door.begin(env_name, seed, KINDS[env_name])]
            seen += [door.step(action) for action in actions]
            assert seen == expected
    finally:
        getattr(door, "close", lambda: None)()
