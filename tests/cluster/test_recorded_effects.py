"""An episode that calls the outside outlives its worker: what was answered is known to the next one, and nobody is asked again."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.cluster.conftest import StartNode
from tests.envs.mcp_chat.counting_server import CountingServer
from tests.envs.mcp_chat.support import message, probe
from tests.pool_process import (
    Pool,
    all_workers,
    drained_owner,
    initialize,
    is_running,
    kill_owner,
    owner_of,
)
from tests.waiting import eventually
from verl_agent_env.envs.mcp_chat.configuration import CONFIG_VARIABLE
from verl_agent_env.types import NUM_SLOTS

PYTHON = "verl_env/python_tool-v0"
QUESTION = {"task_prompt": "What is 6 times 7?", "scorer": {"type": "numeric", "answer": 42}}


def node_of_two(start_node: StartNode) -> Pool:
    """A node whose two workers share all slots."""
    pool = start_node("a", workers=2)

    def is_settled() -> bool:
        slots = [worker["slots"] for worker in all_workers(pool.any)]
        return len(slots) == 2 and all(slots) and sum(slots) == NUM_SLOTS

    eventually(lambda: pool.is_ready() and is_settled(), what="a share for each worker")
    return pool


def taken(client: httpx.Client, env_id: str, action: Any, seq: int) -> dict[str, Any]:
    """The answer to a step, sent again until it is taken."""
    answers: list[dict[str, Any]] = []

    def is_taken() -> bool:
        try:
            answer = client.post(f"/api/environment/{env_id}/step", json={"action": action, "seq": seq})
        except httpx.TransportError:
            return False
        answers.append(answer.json())
        assert answer.status_code == 200 or answers[-1]["retryable"], answer.text
        return answer.status_code == 200

    eventually(is_taken, what="a step")
    return answers[-1]


def running(code: str) -> dict[str, Any]:
    return message(("python", {"code": code}))


def test_outputs_of_programs_outlive_the_worker_that_ran_them(start_node: StartNode) -> None:
    node = node_of_two(start_node)
    env_id = initialize(node.any, PYTHON, env_kwargs=QUESTION)
    taken(node.any, env_id, running("import time; time.time_ns()"), 0)
    last = taken(node.any, env_id, running("import os; os.urandom(8).hex()"), 1)
    before = node.any.get(f"/api/environment/{env_id}/trajectory").json()
    kill_owner(node.any, env_id)
    # The last step, sent again, is answered as it was.
    assert taken(node.any, env_id, running("import os; os.urandom(8).hex()"), 1) == last
    assert node.any.get(f"/api/environment/{env_id}/trajectory").json() == before
    assert taken(node.any, env_id, running("6 * 7"), 2)["observation"][0]["content"] == "42"
    end = taken(node.any, env_id, "42", 3)
    assert (end["reward"], end["terminated"], end["info"]["num_steps"]) == (1.0, True, 4)


def test_a_worker_that_is_killed_takes_the_running_program_with_it(start_node: StartNode) -> None:
    node = node_of_two(start_node)
    env_id = initialize(node.any, PYTHON, env_kwargs={"time_limit_s": 6})
    before = sandboxes()
    pid = int(owner_of(node.any, env_id)["pid"])

    def sleep() -> None:
        action = running("import time; time.sleep(3600)")
        with suppress(httpx.TransportError):
            node.any.post(f"/api/environment/{env_id}/step", json={"action": action, "seq": 0})

    sleeping = threading.Thread(target=sleep)
    sleeping.start()
    eventually(lambda: bool(sandboxes() - before), what="a sandbox")
    started = sandboxes() - before
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_running, started)), what="the end of the sandbox")
    sleeping.join()


def test_answers_of_stateless_mcp_servers_outlive_the_worker(start_node: StartNode, tmp_path: Path) -> None:
    server = probe(stateless=True).model_dump(by_alias=True, include={"command", "args", "stateless"})
    file = tmp_path / "mcp.json"
    file.write_bytes(orjson.dumps({"mcpServers": {"probe": server}}))
    node = start_node("a", variables={CONFIG_VARIABLE: str(file)})
    env_id = initialize(
        node.any, "mcp_chat", env_kwargs={"scorer": {"type": "exact_match", "answer": "done"}}
    )
    last = taken(node.any, env_id, message(("pid", {})), 0)
    before = node.any.get(f"/api/environment/{env_id}/trajectory").json()
    kill_owner(node.any, env_id)
    assert taken(node.any, env_id, message(("pid", {})), 0) == last
    assert node.any.get(f"/api/environment/{env_id}/trajectory").json() == before
    # The next call goes to a server process of the new worker.
    assert taken(node.any, env_id, message(("pid", {})), 1)["observation"] != last["observation"]
    assert taken(node.any, env_id, "done", 2)["reward"] == 1.0


def test_an_episode_goes_on_in_its_mcp_session_after_a_kill_and_after_a_drain(
    start_node: StartNode, tmp_path: Path
) -> None:
    counting = CountingServer()
    try:
        file = tmp_path / "mcp.json"
        file.write_bytes(orjson.dumps({"mcpServers": {"counting": counting.definition}}))
        first, second = (start_node(name, workers=1, variables={CONFIG_VARIABLE: str(file)}) for name in "ab")
        eventually(lambda: second.is_ready() and len(all_workers(first.any)) == 2, what="two workers")
        env_id = initialize(
            first.any, "mcp_chat", env_kwargs={"scorer": {"type": "exact_match", "answer": "done"}}
        )

        def counted(seq: int) -> int:
            return int(taken(first.any, env_id, message(("count", {})), seq)["observation"][0]["content"])

        counts = [counted(0)]
        kill_owner(first.any, env_id)
        assert counted(0) == counts[0]
        counts.append(counted(1))
        with drained_owner(first.any, env_id) as owner:
            eventually(
                lambda: owner_of(first.any, env_id)["address"] != owner["address"], what="another owner"
            )
            counts.append(counted(2))
            assert counting.of("DELETE") == []
            end = taken(first.any, env_id, "done", 3)
        assert (end["reward"], end["info"]["server_failures"]) == (1.0, 0)
        # Nobody but the session counts: a step that a busy worker lost is counted twice, and nothing is forgotten.
        assert counts == sorted(set(counts))
        assert counts[-1] == len(counting.of("tools/call"))
        eventually(lambda: len(counting.of("DELETE")) == 1, what="the end of the session")
        assert [each.session for each in counting.of("DELETE")] == counting.sessions
        assert len(counting.of("initialize")) == len(counting.sessions) == 1
    finally:
        counting.close()


def sandboxes() -> set[int]:
    """Processes of bubblewrap on this machine, and those within."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_sandbox = b"--unshare-all" in path.read_bytes() or b"deny_system_calls" in path.read_bytes()
        except OSError:
            continue
        if is_sandbox:
            found.add(int(path.parent.name))
    return found
