"""The in-process API of the README."""

from __future__ import annotations

import doctest
import threading

import pytest

import verl_agent_env.interface as interface
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    EpisodeNotStartedError,
    InvalidEnvArgumentsError,
    RenderModeError,
    UnknownEnvNameError,
)

LAKE = {"desc": ["SFF", "FHF", "FFG"]}


@pytest.fixture
def env_id() -> str:
    return interface.initialize_environment("frozen_lake", seed=7, env_kwargs=LAKE)


def test_the_example_in_the_docstring_runs() -> None:
    assert doctest.testmod(interface).failed == 0


def test_an_episode_runs_from_initialize_to_close(env_id: str) -> None:
    observation, info = interface.reset(env_id)
    assert observation[0]["role"] == "user"
    assert info["seed"] == 7
    for move in ("right", "right", "down"):
        observation, reward, done, truncated, info = interface.step(env_id, move)
        assert (reward, done, truncated) == (0.0, False, False)
    observation, reward, done, truncated, info = interface.step(env_id, "down")
    assert (reward, done, info["success"]) == (1.0, True, True)
    interface.close_environment(env_id)
    with pytest.raises(EnvironmentNotFoundError) as caught:
        interface.step(env_id, "up")
    assert caught.value.env_id == env_id


def test_a_second_reset_without_seed_begins_the_next_episode() -> None:
    env_id = interface.initialize_environment("frozen_lake", seed=1)
    _, first = interface.reset(env_id)
    _, second = interface.reset(env_id)
    assert first["seed"] == 1
    assert second["seed"] != 1


def test_step_before_reset_is_refused(env_id: str) -> None:
    with pytest.raises(EpisodeNotStartedError):
        interface.step(env_id, "up")


def test_unknown_name_suggests_a_near_one() -> None:
    with pytest.raises(UnknownEnvNameError) as caught:
        interface.initialize_environment("frozn_lake")
    assert "verl_env/frozen_lake-v1" in caught.value.suggestions


def test_unknown_argument_is_named_and_nothing_is_built() -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        interface.initialize_environment("frozen_lake", env_kwargs={"sise": 4})
    assert caught.value.errors[0]["loc"] == ["sise"]


def test_tools_prompt_and_schemas_are_those_of_the_environment(env_id: str) -> None:
    names = ["move_left", "move_down", "move_right", "move_up"]
    assert [tool["function"]["name"] for tool in interface.get_tools_schema_openai(env_id)] == names
    assert [tool["name"] for tool in interface.get_tools_schema_anthropic(env_id)] == names
    assert "frozen lake" in interface.get_task_prompt(env_id)
    assert interface.allow_parallel_tool_call(env_id) is False
    assert "assistant_message" in interface.get_action_space(env_id)["$defs"]


def test_render_draws_and_refuses_unknown_modes(env_id: str) -> None:
    interface.reset(env_id)
    assert interface.render(env_id).startswith("P")
    assert interface.render(env_id, "rgb_array").shape == (48, 48, 3)
    with pytest.raises(RenderModeError) as caught:
        interface.render(env_id, "human")
    assert caught.value.mode == "human"


def test_threads_share_an_environment_without_losing_a_step() -> None:
    env_id = interface.initialize_environment(
        "frozen_lake", env_kwargs={"desc": ["SFG"], "max_steps": 10_000}
    )
    interface.reset(env_id)

    def push() -> None:
        for _ in range(200):
            interface.step(env_id, "left")

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    *_, info = interface.step(env_id, "left")
    assert info["num_steps"] == 801
