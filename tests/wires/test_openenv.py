"""The real ``openenv`` package against this server: its clients, its validator, and the death of a worker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.children import run
from tests.conftest import ServerProcess
from tests.pool_process import LASTING, drained_owner, kill_owner, owner_of
from tests.waiting import HANG_S
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.envs.registry import BUILT_IN

openenv = pytest.importorskip("openenv", reason="make wires-test installs openenv")

EXAMPLE = Path(__file__).parents[2] / "examples" / "wires" / "openenv_episode.py"
MAP = {"desc": ["SFFG"], "is_slippery": False, "include_task_prompt": False}
RIGHT = {"text": "<action>right</action>"}


def base_url(server: ServerProcess, env_name: str = "frozen_lake") -> str:
    return f"{server.url}/openenv/{env_name}"


async def test_generic_client_plays_an_episode(server: ServerProcess) -> None:
    async with openenv.GenericEnvClient(base_url=base_url(server)) as env:
        begun = await env.reset(seed=3, env_kwargs=MAP)
        assert (begun.observation["text"], begun.done) == ("P\tF\tF\tG", False)
        listed = await env.step({"type": "list_tools"})
        assert {tool["name"] for tool in listed.observation["tools"]} >= {"move_left", "move_right"}
        taken = await env.step({"type": "call_tool", "tool_name": "move_right", "arguments": {}})
        assert taken.observation["result"] == "F\tP\tF\tG"
        await env.step(RIGHT)
        ended = await env.step(RIGHT)
        assert (ended.reward, ended.done, ended.metadata["success"]) == (1.0, True, True)
        assert (await env.state())["step_count"] == 3
        with pytest.raises(RuntimeError, match="EXECUTION_ERROR"):
            await env.step(RIGHT)
        assert (await env.reset(seed=3)).observation["messages"]


async def test_new_sessions_are_other_environments(server: ServerProcess) -> None:
    async with openenv.GenericEnvClient(base_url=base_url(server)) as env:
        child = await env.new_session()
        first = (await env.reset(seed=1)).metadata["session_id"]
        assert (await child.reset(seed=1)).metadata["session_id"] != first


def test_generic_client_plays_without_a_loop_of_its_own(server: ServerProcess) -> None:
    with openenv.GenericEnvClient(base_url=base_url(server)).sync() as env:
        begun = env.reset(seed=3, **MAP)
        assert begun.observation["text"] == "P\tF\tF\tG"
        assert env.step(RIGHT).reward == 0.0
        assert env.state()["step_count"] == 1


async def test_mcp_tool_client_lists_and_calls_tools(server: ServerProcess) -> None:
    from openenv.core.mcp_client import MCPToolClient

    async with MCPToolClient(base_url=base_url(server)) as env:
        tools = await env.list_tools()
        assert {tool.name for tool in tools} >= {"move_left", "move_right"}
        assert all(tool.input_schema["type"] == "object" for tool in tools)
        await env.reset()
        text = await env.call_tool("move_right")
        assert isinstance(text, str)
        state = await env.state()
        assert state.step_count == 1
        session_id = env._production_session_id
    async with httpx.AsyncClient(timeout=HANG_S) as client:
        gone = await client.get(f"{server.url}/api/environment/{session_id}")
    assert gone.json()["code"] == "environment_closed"


@pytest.mark.parametrize("env_name", [spec.name for spec in BUILT_IN])
def test_validator_passes_each_environment(server: ServerProcess, env_name: str) -> None:
    from openenv.cli._validation import validate_running_environment

    report = validate_running_environment(base_url(server, env_name), timeout_s=HANG_S)
    assert report["passed"], report
    assert (report["summary"]["passed_count"], report["summary"]["total_count"]) == (6, 6)
    assert report["mode"] == "simulation"


def test_validator_passes_from_its_command_line(server: ServerProcess) -> None:
    done = run(sys.executable, "-m", "openenv.cli", "validate", "--url", base_url(server), timeout_s=HANG_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_of_the_documentation_runs(server: ServerProcess) -> None:
    done = run(sys.executable, str(EXAMPLE), server.url, timeout_s=HANG_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "F\tF\tF\tP 1.0 True"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("wires"), nodes=2, workers=1) as started:
        yield started


def kill_owner_of(cluster: LocalCluster, session_id: str) -> None:
    with httpx.Client(base_url=cluster.url, timeout=HANG_S) as client:
        kill_owner(client, session_id)


async def test_an_episode_survives_the_death_of_its_worker(cluster: LocalCluster) -> None:
    from openenv.core import CallToolAction
    from openenv.core.mcp_client import MCPToolClient
    from websockets.exceptions import ConnectionClosed

    async def stepped(env: Any, direction: str) -> Any:
        # The client connects anew by itself, with the next message.
        try:
            return await env.step(CallToolAction(tool_name=f"move_{direction}", arguments={}))
        except (ConnectionClosed, ConnectionError):
            return await env.step(CallToolAction(tool_name=f"move_{direction}", arguments={}))

    env = MCPToolClient(base_url=f"{cluster.url}/openenv/frozen_lake")
    data = await env._production_mcp_request("openenv/session/create", {"env_kwargs": LASTING, "seed": 1})
    # Before it connects: it would make a session of its own, with other arguments.
    env._production_session_id = session_id = data["result"]["session_id"]
    async with env:
        assert (await stepped(env, "right")).observation.result.startswith("F\tP")
        await asyncio.to_thread(kill_owner_of, cluster, session_id)
        assert (await stepped(env, "left")).observation.result.startswith("P\tF")
        state = await env.state()
        assert (state.step_count, state.episode_id) == (2, session_id)


async def test_generic_client_goes_on_after_the_death_of_its_worker(cluster: LocalCluster) -> None:
    from websockets.exceptions import ConnectionClosed

    async with openenv.GenericEnvClient(base_url=f"{cluster.url}/openenv/frozen_lake") as env:
        session_id = (await env.reset(seed=1, env_kwargs=LASTING)).metadata["session_id"]
        taken = await env.step({**RIGHT, "metadata": {"seq": 0}})
        await asyncio.to_thread(kill_owner_of, cluster, session_id)
        env._ws_url = f"{env._ws_url}?session_id={session_id}"
        try:
            again = await env.step({**RIGHT, "metadata": {"seq": 0}})
        except ConnectionClosed:
            # Its worker held the connection, too. The next message connects anew.
            again = await env.step({**RIGHT, "metadata": {"seq": 0}})
        assert (again.observation, again.reward) == (taken.observation, taken.reward)
        assert (await env.state())["step_count"] == 1


async def test_generic_client_does_not_notice_a_drain_of_its_node(cluster: LocalCluster) -> None:
    async with openenv.GenericEnvClient(base_url=f"{cluster.url}/openenv/frozen_lake") as env:
        session_id = (await env.reset(seed=1, env_kwargs=LASTING)).metadata["session_id"]
        await env.step(RIGHT)
        with httpx.Client(base_url=cluster.url, timeout=HANG_S) as client, ExitStack() as stack:
            before = await asyncio.to_thread(stack.enter_context, drained_owner(client, session_id))
            taken = await env.step({"text": "<action>left</action>"})
            assert taken.observation["text"].startswith("P\tF")
            assert (await asyncio.to_thread(owner_of, client, session_id))["address"] != before["address"]
            assert (await env.state())["step_count"] == 2
