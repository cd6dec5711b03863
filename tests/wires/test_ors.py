"""The real ``openreward`` client against this server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.children import run
from tests.conftest import ServerProcess
from tests.pool_process import LASTING, drained_owner, kill_owner, owner_of
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.local import LocalCluster

openreward = pytest.importorskip("openreward", reason="make wires-test installs openreward")

EXAMPLE = Path(__file__).parents[2] / "examples" / "wires" / "ors_episode.py"


@pytest.fixture
async def client(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setenv("OPENREWARD_SESSION_URL", server.url)
    monkeypatch.setenv("OPENREWARD_API_URL", server.url)
    made = openreward.AsyncOpenReward(api_key="any")
    yield made
    await made.environments.aclose()


async def test_an_episode_of_a_task(client: Any) -> None:
    env = client.environments.get("frozen_lake")
    assert await env.list_splits() == ["train", "test"]
    assert await env.num_tasks("train") == 10_000
    task = await env.get_task("test", 5)
    assert task.task_spec["index"] == 5
    assert [one.task_spec["index"] for one in await env.get_task_range("train", 3, 5)] == [3, 4]
    assert {tool.name for tool in await env.list_tools()} >= {"move_left", "move_right"}
    async with env.session(task=task) as session:
        assert (await session.get_prompt())[0].text
        assert {tool.name for tool in await session.list_tools()} >= {"move_left"}
        taken = await session.call_tool("move_left", {})
        assert (taken.finished, taken.metadata["num_steps"]) == (False, 1)
    async with env.session(split="train", index=3) as session:
        assert (await session.call_tool("move_left")).reward == 0.0


async def test_a_models_message_ends_an_episode_without_tools(client: Any) -> None:
    env = client.environments.get("single_turn_chat")
    [task] = await env.get_task_range("train", 0, 1)
    arguments = {"task_prompt": "What is 2 + 2?", "scorer": {"type": "exact_match", "answer": "4"}}
    task.task_spec = {"env_kwargs": arguments}
    async with env.session(task=task) as session:
        assert await session.is_assistant_message_final()
        taken = await session.call_terminal_tool("4")
        assert (taken.reward, taken.finished) == (1.0, True)


def kill_owner_of(cluster: LocalCluster, session_id: str) -> None:
    with httpx.Client(base_url=cluster.url, timeout=HANG_S) as client:
        kill_owner(client, session_id)


async def test_an_episode_survives_the_death_of_its_worker_and_a_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCluster(tmp_path / "cluster", nodes=2, workers=1) as cluster:
        monkeypatch.setenv("OPENREWARD_SESSION_URL", cluster.url)
        monkeypatch.setenv("OPENREWARD_API_URL", cluster.url)
        client = openreward.AsyncOpenReward(api_key="any")
        env = client.environments.get("frozen_lake")
        [task] = await env.get_task_range("train", 0, 1)
        task.task_spec = {"seed": 1, "env_kwargs": LASTING}
        async with env.session(task=task) as session:
            assert (await session.call_tool("move_right")).blocks[0].text.startswith("F\tP")
            await asyncio.to_thread(kill_owner_of, cluster, session.sid)
            assert (await session.call_tool("move_left")).blocks[0].text.startswith("P\tF")
            assert (await session.call_tool("move_right")).metadata["num_steps"] == 3
            with httpx.Client(base_url=cluster.url, timeout=HANG_S) as http, ExitStack() as stack:
                await asyncio.to_thread(eventually, cluster.is_settled, what="the cluster")
                before = await asyncio.to_thread(stack.enter_context, drained_owner(http, session.sid))
                assert (await session.call_tool("move_left")).blocks[0].text.startswith("P\tF")
                after = await asyncio.to_thread(owner_of, http, session.sid)
                assert after["address"] != before["address"]
        await client.environments.aclose()


def test_the_example_of_the_documentation_runs(server: ServerProcess) -> None:
    done = run(sys.executable, str(EXAMPLE), server.url, timeout_s=HANG_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("False") or done.stdout.splitlines()[-1].endswith("True")
