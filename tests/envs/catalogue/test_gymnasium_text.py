"""Any environment of Gymnasium in words: spaces that have some, and those that have none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from verl_agent_env.envs.catalogue.gymnasium_text.words import ActionWords, lacks_words, words_of
from verl_agent_env.envs.checker.checks import CHECKS, check_environment
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import InvalidEnvArgumentsError, UnknownEnvNameError

DOOR = "tests/Door-v0"
DOOR_IN_WORDS = "gymnasium_text/tests.Door-v0"
MUTE = "Mute-v0"


class Door(gymnasium.Env[Any, Any]):
    """A door that opens at the second push, with an observation of text and numbers."""

    observation_space = spaces.Dict({"sign": spaces.Text(40), "pushes": spaces.Discrete(5)})
    action_space = spaces.Discrete(2, start=3)
    action_names = ("wait", "push")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.pushes = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.pushes += int(action == 4)
        return self._seen(), float(self.pushes == 2), self.pushes == 2, False, {"answer": "push twice"}

    def _seen(self) -> dict[str, Any]:
        return {"sign": "Push!", "pushes": self.pushes}


class Mute(Door):
    """An environment that only a picture shows."""

    observation_space = spaces.Box(0, 255, (32, 32, 3), np.uint8)  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(DOOR, lambda **_: Door(), max_episode_steps=4)
    gymnasium.register(MUTE, lambda **_: Mute())
    yield
    for name in (DOOR, MUTE):
        gymnasium.registry.pop(name, None)


def made(name: str) -> Any:
    kind = default_registry().kind(name)
    return kind.build(kind.validate({}))


def test_its_observations_are_said_and_its_actions_named() -> None:
    env = made(DOOR_IN_WORDS)
    assert "sign: Push!" in env.reset(seed=1)[0][0]["content"]
    assert env.tools[0].parameters["properties"]["action"]["enum"] == ["wait", "push"]
    env.step("wait")
    observation, reward, terminated, _, info = env.step("Push")
    assert (reward, terminated) == (0.0, False)
    assert "pushes: 1" in observation[0]["content"]
    _, reward, terminated, truncated, info = env.step("<answer>push</answer>")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert "answer" not in info


def test_an_action_that_is_none_is_told_and_changes_nothing() -> None:
    env = made(DOOR_IN_WORDS)
    env.reset(seed=1)
    observation, reward, terminated, _, info = env.step("pull")
    assert "wait, push" in observation[0]["content"]
    assert (reward, terminated, info["action_is_valid"]) == (0.0, False, False)


def test_its_own_time_limit_truncates() -> None:
    env = made(DOOR_IN_WORDS)
    env.reset(seed=1)
    flags = [env.step("wait")[2:4] for _ in range(4)]
    assert flags == [(False, False)] * 3 + [(False, True)]
    assert env.ended
    env.reset(seed=1)
    assert env.step("wait")[2:4] == (False, False)


def test_it_passes_the_checks() -> None:
    only = [name for name, _ in CHECKS if name != "measures"]
    report = check_environment("gymnasium_text/Blackjack-v1", num_steps=10, seeds=(1,), only=only)
    assert report.failures == []


def test_without_words_the_error_says_how_to_write_them() -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        default_registry().kind(f"gymnasium_text/{MUTE}")
    assert f"verl-agent-env wrap {MUTE}" in caught.value.detail


@pytest.mark.parametrize("env_id", ["no/such-v0", "os:path", "verl_agent_env.cli:Nothing-v0", ""])
def test_only_what_gymnasium_knows_already_is_found(env_id: str) -> None:
    # A name is no way to have a module imported.
    with pytest.raises(UnknownEnvNameError):
        default_registry().kind(f"gymnasium_text/{env_id}")


def test_the_parts_of_a_dict_are_arguments_of_the_tool() -> None:
    space = spaces.Dict({"say": spaces.Text(5), "way": spaces.Discrete(2)})
    words = ActionWords(space, ("left", "right"))
    assert words.tool.parameters["required"] == ["say", "way"]
    assert words.arguments_of_word("left") is None
    assert words.action_of({"say": "hi", "way": "right"}) == {"say": "hi", "way": 1}
    with pytest.raises(ValueError, match="not an action"):
        words.action_of({"say": "too long", "way": "left"})


def test_values_in_words() -> None:
    assert words_of({"a": (np.int64(3), True), "b": np.array([0.5, 2.0]), "c": np.float32(0.25)}) == (
        "a: 3, yes\nb: [0.5, 2.0]\nc: 0.25"
    )


@pytest.mark.parametrize(
    ("space", "has_words"),
    [
        (spaces.Text(5), True),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (4,))]), True),
        (spaces.Dict({"a": spaces.Box(0, 1, (9, 9))}), False),
        (spaces.Sequence(spaces.Discrete(2)), False),
    ],
)
def test_spaces_that_have_words(space: Any, has_words: bool) -> None:
    assert (lacks_words(space) == "") is has_words
