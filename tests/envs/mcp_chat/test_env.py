"""MCP chat, played with a server that has a tool for everything that can happen."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.server_program import TOOLS
from tests.envs.mcp_chat.support import SECRET, ended, is_running, message, probe, told
from tests.steered import pass_time
from tests.waiting import HANG_S, no_hang, until
from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.envs.mcp_chat.errors import ServerLostError, ServerStartError
from verl_agent_env.envs.mcp_chat.pool import pool_here
from verl_agent_env.envs.scorer_registry import ScoreContext, register_scorer, unregister_scorer
from verl_agent_env.errors import EpisodeEndedError, InvalidEnvArgumentsError


async def call(env: McpChatEnv, name: str, **arguments: Any) -> Any:
    """What one call of a tool is answered with."""
    (said,) = told((await env.astep(message((name, arguments))))[0])
    return said


async def has_noticed(env: McpChatEnv) -> None:
    """Wait until the end of the server's process has reached this one."""
    link = env._sessions["probe"]._link
    await until(lambda: link is None or not link.is_open)


# --- an episode -------------------------------------------------------------------------------------------------


async def test_tools_of_the_server_are_the_action_space(started: Started) -> None:
    env = await started()
    assert [tool.name for tool in env.tools] == list(TOOLS)
    assert env.tools[1].openai()["function"]["parameters"]["required"] == ["a", "b"]


async def test_answer_of_a_tool_is_a_tool_message(started: Started) -> None:
    env = await started()
    observation, reward, terminated, truncated, info = await env.astep(message(("echo", {"text": "hello"})))
    assert observation == [{"role": "tool", "tool_call_id": "c0", "content": "hello"}]
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["num_steps"], info["tool_errors"], info["server_failures"]) == (1, 0, 0)


async def test_message_without_a_call_ends_the_episode_with_the_scorers_reward(started: Started) -> None:
    env = await started(task_prompt="What is 1 + 2?", scorer={"type": "numeric", "answer": 3})
    assert await call(env, "add", a=1, b=2) == "3"
    _, reward, terminated, _, info = await env.astep("<think>easy</think>It is 3.")
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    with pytest.raises(EpisodeEndedError):
        await env.astep("again")


async def test_empty_answer_is_invalid_and_ends_the_episode(started: Started) -> None:
    env = await started(invalid_action_reward=-1.0)
    _, reward, terminated, _, info = await env.astep({"role": "assistant", "content": ""})
    assert (reward, terminated, info["action_is_valid"], info["success"]) == (-1.0, True, False, None)


async def test_registered_scorer_sees_the_whole_conversation(started: Started) -> None:
    seen: list[ScoreContext] = []

    @register_scorer("test/mcp_history")
    def score(answer: str, context: ScoreContext, arguments: Any) -> float:
        seen.append(context)
        return 0.5

    try:
        env = await started(task_prompt="Echo.", scorer={"type": "callable", "name": "test/mcp_history"})
        await call(env, "echo", text="one")
        _, reward, *_ = await env.astep("done")
    finally:
        unregister_scorer("test/mcp_history")
    assert reward == 0.5
    assert [said["role"] for said in seen[0].chat_history] == ["user", "assistant", "tool"]
    assert seen[0].chat_history[1]["tool_calls"][0]["function"]["name"] == "echo"


async def test_opening_holds_system_prompt_history_and_task_prompt(started: Started) -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    env = await started(system_prompt="Be brief.", chat_history=history, task_prompt="Now work.")
    observation, _ = await env.areset(seed=2)
    assert [said["role"] for said in observation] == ["system", "user", "assistant", "user"]
    assert observation[-1]["content"] == "Now work."


async def test_calls_of_one_message_run_side_by_side(started: Started) -> None:
    env = await started()
    assert told((await env.astep(message(("meet", {}), ("meet", {}))))[0]) == ["met", "met"]


async def test_episode_is_truncated_after_max_steps_calls(started: Started) -> None:
    env = await started(max_steps=2)
    await call(env, "echo", text="1")
    observation, _, terminated, truncated, _ = await env.astep(
        message(("echo", {"text": "2"}), ("echo", {"text": "3"}))
    )
    assert (terminated, truncated) == (False, True)
    assert told(observation)[0] == "2"
    assert "last step" in told(observation)[1]


async def test_call_in_text_is_answered_by_a_user_message(started: Started) -> None:
    env = await started()
    observation, *_ = await env.astep('<tool_call>{"name": "echo", "arguments": {"text": "hi"}}</tool_call>')
    assert observation == [{"role": "user", "content": "hi"}]


async def test_each_episode_has_a_fresh_server(started: Started) -> None:
    env = await started()
    await call(env, "remember", text="blue")
    first = int(await call(env, "pid"))
    await env.areset(seed=2)
    assert await call(env, "recall") == "nothing"
    assert await ended(first)


async def test_sessions_end_with_the_episode(started: Started) -> None:
    env = await started()
    pid = int(await call(env, "pid"))
    await env.astep("bye")
    assert await ended(pid)


def test_gymnasiums_way_works_without_an_event_loop(configured: Callable[..., None]) -> None:
    configured(probe())
    env = McpChatEnv(servers=["probe"])
    try:
        env.reset(seed=1)
        pid = int(told(env.step(message(("pid", {})))[0])[0])
        assert is_running(pid)
    finally:
        env.close()
    assert not is_running(pid)


# --- what a model does wrong ------------------------------------------------------------------------------------


async def test_unknown_tool_and_wrong_arguments_are_told_to_the_model(started: Started) -> None:
    env = await started()
    observation, _, terminated, _, info = await env.astep(message(("nope", {}), ("add", {"a": 1})))
    assert not terminated
    assert not info["action_is_valid"]
    assert all(said.startswith("Invalid action:") for said in told(observation))


async def test_error_of_a_tool_is_a_tool_message_and_costs_its_reward(started: Started) -> None:
    env = await started(tool_error_reward=-0.25)
    observation, reward, _, _, info = await env.astep(
        message(("fail", {}), ("raise", {}), ("echo", {"text": "x"}))
    )
    assert told(observation) == ["the printer is on fire", "Error: Internal server error", "x"]
    assert reward == -0.5
    assert (info["tool_errors"], info["server_failures"], info["action_is_valid"]) == (2, 0, True)


async def test_long_answer_is_cut(started: Started) -> None:
    env = await started(max_result_chars=100)
    said = await call(env, "long")
    assert said.startswith("0123456789" * 10 + "\n")
    assert "9900 more characters" in said


# --- servers that fail ------------------------------------------------------------------------------------------


async def test_server_that_dies_during_a_call_is_told_and_started_again(started: Started) -> None:
    env = await started()
    await call(env, "remember", text="blue")
    observation, _, terminated, _, info = await env.astep(message(("die", {})))
    assert "ended during the call" in told(observation)[0]
    assert (terminated, info["server_failures"], info["tool_errors"]) == (False, 1, 1)
    assert await call(env, "recall") == "nothing"


async def test_server_killed_between_calls_is_started_again_and_the_loss_is_told(started: Started) -> None:
    env = await started()
    pid = int(await call(env, "pid"))
    os.kill(pid, signal.SIGKILL)
    assert await ended(pid)
    await has_noticed(env)
    observation, *_, info = await env.astep(message(("echo", {"text": "still there"})))
    note, said = told(observation)[0].split("\n")
    assert "new session" in note
    assert said == "still there"
    assert info["server_failures"] == 1


async def test_all_calls_under_way_survive_the_death_of_their_server(started: Started) -> None:
    env = await started()
    step = asyncio.create_task(env.astep(message(("wait", {}), ("wait", {}), ("die", {}))))
    async with no_hang():
        observation, *_ = await step
    assert all("ended during the call" in said for said in told(observation))
    assert await call(env, "echo", text="x") == "x"


async def test_slow_call_is_given_up_and_the_session_goes_on(started: Started, tmp_path: Path) -> None:
    env = await started()
    await call(env, "remember", text="blue")
    waiting = asyncio.create_task(call(env, "wait", begun=str(tmp_path / "begun")))
    await until((tmp_path / "begun").exists)
    await pass_time(HANG_S)
    assert f"did not answer within {HANG_S:g} s" in await waiting
    assert await call(env, "recall") == "blue"


async def test_server_that_hangs_is_killed_and_started_again(started: Started, tmp_path: Path) -> None:
    env = await started(probe(stop_grace_s=60.0))
    pid = int(await call(env, "pid"))
    hanging = asyncio.create_task(call(env, "hang", begun=str(tmp_path / "begun")))
    await until((tmp_path / "begun").exists)
    # The tool is no longer waited for, nor is the server for its own end.
    await pass_time(HANG_S)
    async with no_hang():
        assert "new session" in await hanging
    assert not is_running(pid)
    assert await call(env, "echo", text="x") == "x"


async def test_server_that_cannot_come_back_loses_the_episode_with_a_typed_error(started: Started) -> None:
    env = await started(probe(max_restarts=0))
    with pytest.raises(ServerLostError):
        await env.astep(message(("die", {})))


async def test_failure_raises_where_the_arguments_say_so(started: Started) -> None:
    env = await started(raise_on_server_failure=True)
    with pytest.raises(ServerLostError):
        await env.astep(message(("die", {})))


async def test_cancelled_step_leaves_a_session_that_works(started: Started, tmp_path: Path) -> None:
    env = await started()
    step = asyncio.create_task(env.astep(message(("wait", {"begun": str(tmp_path / "begun")}))))
    await until((tmp_path / "begun").exists)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert await call(env, "echo", text="x") == "x"


async def test_close_during_a_call_returns_and_ends_the_server(started: Started, tmp_path: Path) -> None:
    env = await started()
    pid = int(await call(env, "pid"))
    step = asyncio.create_task(env.astep(message(("wait", {"begun": str(tmp_path / "begun")}))))
    await until((tmp_path / "begun").exists)
    async with no_hang():
        await env.aclose()
        with pytest.raises(ServerLostError):
            await step
    assert not is_running(pid)


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "/nowhere/at-all"},
        {"args": ("-c", "raise SystemExit(3)")},
        {"args": ("-c", "print('not a protocol')")},
        {"args": ("-c", "import time; time.sleep(3600)"), "start_timeout_s": 0.5},
        {"type": "http", "command": None, "args": (), "url": "http://127.0.0.1:9/mcp?key=" + "k" * 20},
        {"type": "sse", "command": None, "args": (), "url": "http://127.0.0.1:9/sse?key=" + "k" * 20},
    ],
    ids=["no such program", "ends at once", "speaks no MCP", "says nothing", "http", "sse"],
)
async def test_server_that_does_not_start_is_a_typed_error_without_secrets(
    started: Started, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ServerStartError) as caught:
        await started(probe(**fields, env={"PROBE_TOKEN": SECRET} if "url" not in fields else {}))
    assert "probe" in str(caught.value)
    assert "kkkk" not in str(caught.value) + caplog.text
    assert pool_here().num_sessions == 0


async def test_one_of_several_servers_that_fails_leaves_none_running(started: Started, tmp_path: Any) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(ServerStartError):
        await started(probe("--pids", str(pids)), probe(name="broken", args=("-c", "raise SystemExit(1)")))
    await pool_here().aclose()
    assert not any(is_running(int(pid)) for pid in pids.read_text().split()) if pids.exists() else True


# --- several servers --------------------------------------------------------------------------------------------


async def test_names_of_two_servers_get_the_servers_name_before_them(started: Started) -> None:
    env = await started(probe(name="red"), probe(name="blue"))
    assert {tool.name for tool in env.tools} == {
        f"{server}_{tool}" for server in ("red", "blue") for tool in TOOLS
    }
    observation, *_ = await env.astep(message(("red_pid", {}), ("blue_pid", {})))
    assert len(set(told(observation))) == 2


async def test_tool_that_is_not_allowed_is_neither_offered_nor_called(started: Started) -> None:
    env = await started(probe(allowed_tools=("echo", "e*"), denied_tools=("everything",)))
    assert [tool.name for tool in env.tools] == ["echo"]
    assert "There is no tool 'variables'" in await call(env, "variables")


async def test_environments_with_the_same_servers_share_their_tools(started: Started) -> None:
    assert (await started()).tools is (await started()).tools


# --- security ---------------------------------------------------------------------------------------------------


async def test_secrets_of_the_configuration_never_reach_an_observation(started: Started) -> None:
    env = await started(
        probe(env={"PROBE_TOKEN": SECRET, "PROBE_LEVEL": "verbose-mode"}, public_env=["PROBE_LEVEL"])
    )
    said = await call(env, "variables")
    assert "PROBE_TOKEN=[hidden]" in said
    assert "PROBE_LEVEL=verbose-mode" in said
    assert await call(env, "echo", text=f"it is {SECRET}!") == "it is [hidden]!"


async def test_server_does_not_get_the_workers_own_variables(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the worker's own")
    assert "OPENAI_API_KEY" not in await call(await started(), "variables")


async def test_what_a_server_says_on_standard_error_is_logged_without_secrets(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "verl_agent_env.mcp")
    env = await started(probe(env={"PROBE_TOKEN": SECRET}, log_stderr=True))
    await call(env, "echo", text="x")
    assert "the probe starts with [hidden]" in caplog.text


@pytest.mark.parametrize(
    "servers",
    [
        ["unknown"],
        [{"name": "mine", "command": "ls"}],
        [{"name": "mine", "url": "http://169.254.169.254/mcp"}],
    ],
)
def test_arguments_can_name_configured_servers_only(
    configured: Callable[..., None], servers: list[Any]
) -> None:
    configured(probe())
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        McpChatEnv(servers=servers)
    assert caught.value.errors[0]["loc"] == ["servers", 0]


async def test_commands_from_arguments_run_where_the_operator_allows_them(
    configured: Callable[..., None],
) -> None:
    configured(commands_allowed=True)
    given = probe(name="mine")
    env = McpChatEnv(servers=[{"name": "mine", "command": given.command, "args": given.args}])
    try:
        await env.areset(seed=1)
        assert await call(env, "echo", text="x") == "x"
    finally:
        await env.aclose()
        await pool_here().aclose()


@pytest.mark.parametrize("privilege", [{"shared": True}, {"logStderr": True}, {"maxSessions": 100_000}])
def test_arguments_cannot_take_what_is_the_operators(
    configured: Callable[..., None], privilege: dict[str, Any]
) -> None:
    configured(commands_allowed=True)
    with pytest.raises(InvalidEnvArgumentsError):
        McpChatEnv(servers=[{"name": "mine", "command": "ls", **privilege}])
