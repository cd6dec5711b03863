"""A model answers with the help of programs, and a scorer rewards the answer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.envs.mcp_chat.support import message, told
from verl_agent_env.envs.python_tool import PythonToolEnv
from verl_agent_env.errors import InvalidEnvArgumentsError

QUESTION: dict[str, Any] = {"task_prompt": "What is 6 times 7?", "scorer": {"type": "numeric", "answer": 42}}
pytestmark = pytest.mark.usefixtures("sandboxes")


async def begun(**arguments: Any) -> PythonToolEnv:
    env = PythonToolEnv(**{**QUESTION, **arguments})
    await env.areset(seed=1)
    return env


def running(*codes: str) -> dict[str, Any]:
    return message(*(("python", {"code": code}) for code in codes))


async def test_a_program_is_run_and_the_answer_is_scored() -> None:
    env = await begun()
    observation, reward, terminated, _, info = await env.astep(running("6 * 7"))
    assert told(observation) == ["42"]
    assert (reward, terminated, info["tool_errors"]) == (0.0, False, 0)
    _, reward, terminated, _, info = await env.astep("The answer is 42.")
    assert (reward, terminated, info["success"]) == (1.0, True, True)


async def test_programs_of_one_message_know_nothing_of_each_other() -> None:
    env = await begun()
    observation, *_ = await env.astep(running("x = 1", "print(x)"))
    nothing, unknown = told(observation)
    assert nothing == "The program printed nothing."
    assert unknown.endswith("NameError: name 'x' is not defined")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("import ctypes; ctypes.string_at(0)", "by signal 11"),
        ("def", "SyntaxError"),
        ("while True: print('x')", "more than 200 characters"),
    ],
)
async def test_a_program_that_fails_costs_what_is_agreed(code: str, said: str) -> None:
    env = await begun(tool_error_reward=-0.5, max_result_chars=200)
    observation, reward, _, _, info = await env.astep(running(code))
    assert said in told(observation)[0]
    assert (reward, info["tool_errors"], info["action_is_valid"]) == (-0.5, 1, True)


async def test_a_program_that_takes_too_long_is_told_so() -> None:
    env = await begun(time_limit_s=0.2)
    observation, *_ = await env.astep(running("while True: pass"))
    assert told(observation) == ["The program took longer than 0.2 s, and was ended."]


async def test_a_call_without_code_runs_nothing() -> None:
    env = await begun()
    observation, _, _, _, info = await env.astep(message(("python", {}), ("shell", {"code": "1"})))
    assert all(text.startswith("Invalid action") for text in told(observation))
    assert not info["action_is_valid"]


async def test_a_replay_gives_the_outcome_and_runs_nothing() -> None:
    env = await begun()
    env.begin_effects(None)
    live = await env.astep(running("import time; time.time_ns()"))
    outcomes = env.take_effects()
    again = PythonToolEnv(**QUESTION)
    again.begin_effects({})
    await again.areset(seed=1)
    again.begin_effects(outcomes)
    assert await again.astep(running("import time; time.time_ns()")) == live
    assert again.state_digest() == env.state_digest()


def test_the_programs_of_a_message_fit_into_the_time_of_a_step() -> None:
    with pytest.raises(InvalidEnvArgumentsError):
        PythonToolEnv(time_limit_s=20, max_actions_per_turn=2)
