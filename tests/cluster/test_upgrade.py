"""A rolling upgrade with a real second installation: what episodes of the old version come to at the new one."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

import verl_agent_env
from tests.cluster.conftest import StartNode
from tests.cluster.redis_process import RedisProcess
from tests.conftest import StartServer
from tests.pool_process import LASTING, Pool, all_workers
from tests.waiting import eventually
from tests.wayfarer import ENV_NAME, write_package
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv

SEEDS = range(12)


class Episodes:
    """Environments that take a step each whenever somebody asks; none may fail but for a while."""

    def __init__(self, pool: Pool, env_name: str, action: str, **kwargs: Any) -> None:
        request = {"env_name": env_name, "seeds": list(SEEDS), "env_kwargs": kwargs}
        answer = pool.any.post("/api/batch/initialize", json=request).json()
        assert answer["errors"] == []
        self.env_ids: list[str] = answer["env_ids"]
        self.action = action
        self.seq = 0
        self.words: list[str] = []
        """What each of them says at present."""

    def step(self, pool: Pool) -> None:
        """A step of each, sent again as long as that may help."""
        eventually(lambda: not self.try_to_step(pool), what="a step of all environments")

    def try_to_step(self, pool: Pool) -> set[str]:
        """A step of each that has not taken it; returns the errors of those that did not."""
        body = {
            "env_ids": self.env_ids,
            "actions": [self.action] * len(SEEDS),
            "seqs": [self.seq] * len(SEEDS),
        }
        try:
            answer = pool.any.post("/api/batch/step", json=body)
        except httpx.TransportError:
            return {"no answer"}
        if answer.status_code != 200:
            assert answer.json()["retryable"], answer.text
            return {answer.json()["code"]}
        document = answer.json()
        assert all(error["retryable"] for error in document["errors"]), document["errors"]
        if not document["errors"]:
            assert [info["num_steps"] for info in document["infos"]] == [self.seq + 1] * len(SEEDS)
            self.words = [messages[-1]["content"] for messages in document["observations"]]
            self.seq += 1
        return {error["code"] for error in document["errors"]}

    def at(self, pool: Pool) -> int:
        """How many of them live at a node."""
        owners = [pool.any.get(f"/api/environment/{env_id}").json().get("owner") for env_id in self.env_ids]
        return sum(owner in pool.addresses for owner in owners)


def live_at(pool: Pool) -> int:
    """Environments at a node, by its last heartbeats."""
    return sum(worker["live_envs"] for worker in all_workers(pool.any) if worker["address"] in pool.addresses)


@pytest.fixture(scope="module")
def other_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second installation of the whole package, in which a lake is shown in other words."""
    copy = tmp_path_factory.mktemp("other") / "verl_agent_env"
    shutil.copytree(Path(verl_agent_env.__file__).parent, copy)
    grid = copy / "envs" / "frozen_lake.py"
    source = grid.read_text("utf-8")
    changed = source.replace("    def dump_state(", _LOOK + "    def dump_state(")
    assert changed != source
    grid.write_text(changed, "utf-8")
    return copy.parent


_LOOK = """    def observe(self) -> Content:
        return f"Behold!\\\\n{super().observe()}"

""".replace("\\\\", "\\")


# What comes of the episodes of a node that was killed is shown by ``test_nodes.py``; beside an upgrade, by the simulation.
@pytest.mark.parametrize("end", ["drained", pytest.param("killed", marks=pytest.mark.deep)])
def test_no_episode_is_lost_to_other_words(start_node: StartNode, other_words: Path, end: str) -> None:
    a = start_node("a")
    lakes = Episodes(a, "frozen_lake", "right", **LASTING)
    for _ in range(3):
        lakes.step(a)
    assert not any(words.startswith("Behold!") for words in lakes.words)
    b = start_node("b", python_path=other_words)

    def has_shared() -> bool:
        lakes.step(a)
        return live_at(b) > 0

    eventually(has_shared, what="a share of the environments at the new node")
    if end == "drained":
        a.server.process.send_signal(signal.SIGTERM)
    else:
        a.kill_all()

    def has_taken_over() -> bool:
        lakes.step(b)
        return live_at(b) == len(SEEDS)

    eventually(has_taken_over, what="all environments at the new node")
    lakes.step(b)
    assert all(words.startswith("Behold!") for words in lakes.words)
    kwargs: dict[str, Any] = LASTING
    alone = FrozenLakeEnv(**kwargs)
    alone.reset(seed=0)
    for _ in range(lakes.seq):
        observation, *_ = alone.step("right")
    # No chance is in it: all of them are where one is that was never moved.
    assert {words.removeprefix("Behold!\n") for words in lakes.words} == {observation[-1]["content"]}


def test_worker_that_starts_again_is_of_the_code_that_it_runs_not_of_what_was_installed_since(
    start_server: StartServer, other_words: Path, tmp_path: Path, redis_server: RedisProcess, namespace: str
) -> None:
    installed = tmp_path / "verl_agent_env"
    shutil.copytree(Path(verl_agent_env.__file__).parent, installed)
    # Started as its users do: what forks the servers of other tests has read the files.
    command = [sys.executable, "-m", "verl_agent_env.cli", "serve", "--port", "0", "--node", "a"]
    shared = ["--advertise", "127.0.0.1", "--redis", redis_server.url, "--namespace", namespace]
    a = Pool(start_server(command=[*command, *shared], PYTHONPATH=str(tmp_path)), "a")
    Episodes(a, "frozen_lake", "right", **LASTING)
    before = codes_in(redis_server, namespace)
    assert len(before) == 1
    shutil.copytree(other_words / "verl_agent_env", installed, dirs_exist_ok=True)
    killed = a.kill(0)
    eventually(lambda: a.pid(0) != killed, what="another worker")
    Episodes(a, "frozen_lake", "right", **LASTING)
    assert codes_in(redis_server, namespace) == before


def codes_in(server: RedisProcess, namespace: str) -> set[str]:
    """Fingerprints of the code by which all environments of a cluster were begun."""
    with redis.Redis(port=server.port, decode_responses=True) as client:
        headers = [client.get(key) for key in client.keys(f"{Keys(namespace).base}m:*")]
    return {json.loads(header.partition("\n")[2])["code"] for header in headers}


def test_state_of_another_format_stays_with_its_version_and_goes_on_where_that_runs(
    start_node: StartNode, tmp_path: Path
) -> None:
    old = write_package(tmp_path / "old", prompt="Old")
    new = write_package(tmp_path / "new", prompt="New", state_version=2)
    a = start_node("a", python_path=old)
    roads = Episodes(a, ENV_NAME, "walk")
    for _ in range(3):
        roads.step(a)
    lakes = Episodes(a, "frozen_lake", "right", **LASTING)
    b = start_node("b", python_path=new)

    def has_share() -> bool:
        roads.step(b)
        lakes.step(b)
        return any(worker["slots"] for worker in all_workers(b.any) if worker["address"] in b.addresses)

    eventually(has_share, what="slots at the new node")
    for _ in range(5):
        roads.step(b)
    assert all(words.startswith("Old, at") for words in roads.words)
    assert roads.at(a) == len(SEEDS)
    # Who dies leaves them to one of its own version.
    c = start_node("c", python_path=old)
    roads.step(c)
    a.kill_all()

    def is_at(pool: Pool) -> bool:
        return not roads.try_to_step(b) and roads.at(pool) == len(SEEDS)

    eventually(lambda: is_at(c), what="the environments at the other node of their version")
    # Nobody else can read them: that is said, and nothing is lost.
    c.kill_all()
    eventually(lambda: roads.try_to_step(b) == {"incompatible_version"}, what="a typed error")
    lakes.step(b)
    d = start_node("d", python_path=old)
    eventually(lambda: is_at(d), what="the environments at a new node of their version")
    roads.step(d)
    assert [int(words.split()[-1]) for words in roads.words] == [seed + roads.seq for seed in SEEDS]
