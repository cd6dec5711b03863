"""Spaces of chat observations and actions, and values sampled from JSON Schemas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.sampling import sample_value
from verl_agent_env.envs.sokoban import SokobanEnv
from verl_agent_env.envs.spaces import ActionSpace, ObservationSpace, action_space_for
from verl_agent_env.messages import Tool, parse_action

TOOL = Tool(
    "write",
    "Write.",
    {
        "type": "object",
        "properties": {"text": {"type": "string", "examples": ["a", "b"]}},
        "required": ["text"],
    },
)


@pytest.mark.parametrize(
    "observation",
    [
        [{"role": "user", "content": "a"}],
        [{"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": ""}, {"role": "tool", "tool_call_id": "", "content": []}],
    ],
)
def test_messages_are_observations(observation: Any) -> None:
    assert ObservationSpace().contains(observation)


@pytest.mark.parametrize(
    "other",
    [
        *(None, "a", [], {}, [5], [{}], [{"role": "user"}], [{"role": "robot", "content": ""}]),
        *([{"role": "tool", "content": "a"}], [{"role": "user", "content": None}]),
        *([{"role": "user", "content": ["a"]}], [{"role": "user", "content": [{"text": "a"}]}]),
    ],
)
def test_other_things_are_no_observations(other: Any) -> None:
    assert not ObservationSpace().contains(other)


@pytest.mark.parametrize(
    "action",
    [
        *("", "up", {"role": "assistant", "content": None}, {"role": "assistant", "tool_calls": []}),
        [{"role": "assistant", "content": "up"}],
    ],
)
def test_messages_and_text_are_actions(action: Any) -> None:
    assert ActionSpace((TOOL,), parallel=False).contains(action)


@pytest.mark.parametrize("other", [None, 5, [], [[]], ["up"], {}, {"role": "user", "content": "a"}])
def test_other_things_are_no_actions(other: Any) -> None:
    assert not ActionSpace((TOOL,), parallel=False).contains(other)


@pytest.mark.parametrize("tools", [(), (TOOL,), FrozenLakeEnv.tools, SokobanEnv.tools])
def test_samples_are_actions_and_fit_the_schema(tools: tuple[Tool, ...]) -> None:
    space = ActionSpace(tools, parallel=False)
    space.seed(1)
    valid = Draft202012Validator(space.json_schema()).is_valid
    by_name = {tool.name: tool for tool in tools}
    seen = set()
    for _ in range(100):
        action = space.sample()
        assert space.contains(action)
        assert valid(action)
        for call in parse_action(action).calls:
            assert by_name[call.name].fault(call.arguments) is None
            seen.add(call.name)
    assert seen == set(by_name)


def test_same_seed_samples_the_same() -> None:
    samples = []
    for _ in range(2):
        space = ActionSpace(SokobanEnv.tools, parallel=False)
        space.seed(4)
        samples.append([space.sample() for _ in range(20)])
    assert samples[0] == samples[1]


def test_one_space_per_class_and_parallelism() -> None:
    assert FrozenLakeEnv().action_space is FrozenLakeEnv(size=4).action_space is FrozenLakeEnv.action_space
    parallel = FrozenLakeEnv(max_actions_per_turn=2).action_space
    assert parallel is FrozenLakeEnv(max_actions_per_turn=3).action_space
    assert parallel is not FrozenLakeEnv.action_space
    assert action_space_for(FrozenLakeEnv.tools, parallel=True) is parallel


def test_equal_tools_make_equal_spaces() -> None:
    one = ActionSpace((TOOL,), parallel=False)
    assert one == ActionSpace((TOOL,), parallel=False)
    assert one != ActionSpace((TOOL,), parallel=True)
    assert one != ActionSpace((), parallel=False)
    assert ObservationSpace() == ObservationSpace()
    assert ObservationSpace() != one


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
            "required": ["a"],
        },
        {"type": "array", "items": {"type": "boolean"}, "minItems": 5},
        {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
        {"type": "integer", "minimum": -3, "maximum": 3},
        {"type": "integer", "maximum": -5},
        {"type": "number", "maximum": -5.5},
        {"type": "number", "minimum": 2.0},
        {"type": "string", "minLength": 30, "maxLength": 40},
        {"type": "string", "maxLength": 2},
        {"type": ["string", "null"]},
        {"enum": [1, "a"]},
        {"const": 5},
        {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        {"oneOf": [{"type": "null"}, {"type": "array", "items": True}]},
        {},
        True,
    ],
)
def test_sampled_values_fit_their_schema(schema: Any) -> None:
    random = np.random.default_rng(2)
    valid = Draft202012Validator(schema).is_valid
    for _ in range(50):
        assert valid(sample_value(schema, random))
