"""Environments of other packages whose hooks have the names of the version before."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.renamed_hooks import RENAMED
from verl_agent_env.types import Content

_PLAY = """
import json, random, warnings
warnings.simplefilter("always")
from verl_agent_env.envs.registry import default_registry
with warnings.catch_warnings(record=True) as caught:
    kind = default_registry().kind("loud_launch")
    env = kind.build(kind.validate({}))
    first = env.reset(seed=1)[0][0]["content"]
    steps = [env.step("nonsense")]
    dice = random.Random(1)
    while not env.ended:
        steps.append(env.step(env.sample_action(dice)))
print(json.dumps([
    first,
    [[step[0][0]["content"], step[1], step[2]] for step in steps],
    sorted({str(each.message).partition(";")[0] for each in caught if each.category is DeprecationWarning}),
]))
"""


def test_package_written_against_the_old_hooks_is_found_and_played(
    run_with_acme: Callable[[str], str],
) -> None:
    first, steps, warned = json.loads(run_with_acme(_PLAY))
    assert first.endswith("Ready? 3 left.!")
    fault, *played = steps
    assert fault[0].startswith("Invalid action")
    assert fault[0].endswith("3 left.!")
    assert fault[1] == -0.5
    assert [step[0] for step in played] == ["2 left.!", "1 left.!", "0 left.!", "Lift-off!"]
    assert played[-1][1:] == [1.0, True]
    for former, name in RENAMED.items():
        assert any(f"hook '{former}' is now named '{name}'" in each for each in warned), former
    assert any(each.startswith("LoudLaunchEnv: ") for each in warned)


@pytest.mark.parametrize(("former", "name"), RENAMED.items())
def test_both_names_of_a_hook_exist_and_only_the_former_warns(former: str, name: str) -> None:
    assert callable(getattr(ChatEnv, name))
    env = _Quiet()
    env.reset(seed=1)

    def call(hook: str) -> Any:
        arguments: dict[str, list[Any]] = {"guess": [random.Random(1)], "_offer": [()]}
        return getattr(env, hook)(*arguments.get(former, []))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = call(name)
    with pytest.warns(DeprecationWarning, match=f"now named '{name}'"):
        assert call(former) == expected


class _Quiet(ChatEnv):
    def task_prompt_text(self) -> str:
        return "Say nothing."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        pass

    def observe(self) -> Content:
        return "Quiet."


def test_override_under_the_new_name_does_not_warn_and_answers_the_former_one() -> None:
    with pytest.warns(DeprecationWarning, match="'look' is now named 'observe'"):
        assert _Quiet().look() == "Quiet."


def test_class_with_both_names_keeps_both_and_is_observed_by_the_new_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Both(_Quiet):
            def observe(self) -> Content:
                return "new"

            def look(self) -> Content:
                return "old"

    assert (Both().observe(), Both().look()) == ("new", "old")


def test_mixin_that_knows_the_former_name_overrides_the_class_after_it() -> None:
    class Mixin:
        def look(self) -> Content:
            return "mixed in"

    with pytest.warns(DeprecationWarning, match="Mixed: the hook 'look'"):

        class Mixed(Mixin, _Quiet):
            pass

    assert Mixed().observe() == "mixed in"


def test_mixin_with_the_new_name_answers_the_former_one() -> None:
    class Mixin:
        def observe(self) -> Content:
            return "mixed in"

    class Mixed(Mixin, _Quiet):
        pass

    with pytest.warns(DeprecationWarning, match="'look' is now named 'observe'"):
        assert Mixed().look() == "mixed in"


def test_hooks_of_intermediate_classes_are_found_by_super_under_the_former_name() -> None:
    with pytest.warns(DeprecationWarning, match="'first_look' is now named"):

        class Lake(FrozenLakeEnv):
            def first_look(self) -> Content:
                return f"At first: {super().first_look()}"

    lake, plain = (env_class(map_name="4x4") for env_class in (Lake, FrozenLakeEnv))
    plain.reset(seed=1)
    with pytest.warns(DeprecationWarning, match="'first_look' is now named"):
        [message] = lake.reset(seed=1)[0]
    assert message["content"].endswith(f"At first: {plain.initial_observation()}")
