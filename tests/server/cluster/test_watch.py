"""The watch of a cluster: one snapshot for all who look on, and none for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest

from tests.waiting import no_hang, until
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.errors import WorkerUnreachableError
from verl_agent_env.server.cluster.figures import WorkerFigures, shown_worker
from verl_agent_env.server.cluster.peers import PeerAnswer
from verl_agent_env.server.cluster.watch import FIGURES_PATH, ClusterWatch, SharedSnapshot
from verl_agent_env.server.http.types import Request

HERE, THERE = "here:1", "there:2"
SLOTS = 8


def record_of(address: str) -> WorkerRecord:
    return WorkerRecord(f"life of {address}", f"node:{address}", "node", "secret", address, 1, "ready")


def figures_of(address: str, steps: int = 0, runs: tuple[tuple[str, str, int], ...] = ()) -> WorkerFigures:
    return WorkerFigures("node", shown_worker(record_of(address)), steps, [steps], [0], [], {}, {}, runs)


class World:
    """Two workers of one node, of which the other one can be silent, and what is asked of them."""

    def __init__(self) -> None:
        self.steps = 0
        self.num_looks = 0
        self.num_calls = 0
        self.is_silent = False
        self.records: Mapping[str, WorkerRecord | None] = {at: record_of(at) for at in (HERE, THERE)}
        self.table = SlotTable(HERE, num_slots=SLOTS)
        self.assign(4)
        membership: Any = self
        peers: Any = self
        self.watch = ClusterWatch(self.own, membership, self.table, peers, interval_s=0.01)

    def assign(self, mine: int) -> None:
        """Have this worker own the first slots, and the other one the others."""
        self.table.assign([HERE] * mine + [THERE] * (SLOTS - mine), range(mine))

    def own(self) -> WorkerFigures:
        self.num_looks += 1
        self.steps += 10
        return figures_of(HERE, self.steps, (("run", "tag", 2), ("other", "", 9)))

    def known(self) -> tuple[int, Mapping[str, WorkerRecord | None]]:
        return 3, self.records

    async def call(self, address: str, method: str, path: str, **_: Any) -> PeerAnswer:
        assert (address, method, path) == (THERE, "GET", FIGURES_PATH)
        self.num_calls += 1
        if self.is_silent:
            raise WorkerUnreachableError(address, "it is silent")
        return PeerAnswer(figures_of(address, 5, (("run", "", 1),)).to_json(), b"application/json")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.watch.stop()


def cluster_in(snapshot: SharedSnapshot) -> Any:
    return orjson.loads(snapshot.cluster)


async def test_all_who_look_on_share_the_snapshots_and_nothing_is_done_for_nobody(world: World) -> None:
    assert not world.watch.is_watching
    async with no_hang(), contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(contextlib.aclosing(world.watch.snapshots())) for _ in range(10)
        ]
        first = await asyncio.gather(*map(anext, streams))
        assert len(set(map(id, first))) == 1
        assert world.num_looks == world.num_calls == 1
        second = await asyncio.gather(*map(anext, streams))
        assert len(set(map(id, second))) == 1
        assert world.num_looks == 2
    assert not world.watch.is_watching
    looks = world.num_looks
    await asyncio.sleep(0.05)
    assert world.num_looks == looks


async def test_rates_are_those_between_two_looks_and_slots_are_written_anew_only_when_they_move(
    world: World,
) -> None:
    async with no_hang(), contextlib.aclosing(world.watch.snapshots()) as snapshots:
        first, second = await anext(snapshots), await anext(snapshots)
        assert cluster_in(first)["steps_per_s"] is None
        assert cluster_in(second)["steps_per_s"] > 0
        assert second.slots_version == first.slots_version
        names = orjson.loads(second.slots)["workers"]
        assert [names[owner] for owner in orjson.loads(second.slots)["owners"]] == [f"node:{HERE}"] * 4 + [
            f"node:{THERE}"
        ] * 4
        world.assign(6)
        third = await anext(snapshots)
        assert third.slots_version != second.slots_version
        (node,) = cluster_in(third)["nodes"]
        assert {worker["address"]: worker["slots"] for worker in node["workers"]} == {HERE: 6, THERE: 2}


async def test_a_worker_that_does_not_answer_is_shown_as_silent_with_its_slots(world: World) -> None:
    world.is_silent = True
    async with no_hang(), contextlib.aclosing(world.watch.snapshots()) as snapshots:
        snapshot = await anext(snapshots)
        (node,) = cluster_in(snapshot)["nodes"]
        silent = node["workers"][1]
        assert (silent["state"], silent["slots"], silent["steps_per_s"]) == ("silent", 4, None)
        assert "secret" not in snapshot.cluster.decode()
        # Of a fixed list, nobody knows more of a silent one than its address.
        world.records = dict.fromkeys((HERE, THERE))
        (node,) = cluster_in(await anext(snapshots))["nodes"]
        assert [worker["address"] for worker in node["workers"]] == [HERE]


async def test_a_holder_is_told_of_its_own_runs_alone(world: World) -> None:
    async with no_hang(), contextlib.aclosing(world.watch.snapshots()) as snapshots:
        snapshot = await anext(snapshots)
        assert [snapshot.live_of_run("run", tag) for tag in (None, "tag", "", "x")] == [3, 2, 1, 0]
        assert snapshot.live_of_run("no run", None) == 0


async def test_the_end_of_the_server_ends_all_streams_at_once(world: World) -> None:
    async def follow() -> int:
        count = 0
        async with contextlib.aclosing(world.watch.snapshots()) as snapshots:
            async for _ in snapshots:
                count += 1
        return count

    async with no_hang():
        tasks = [asyncio.create_task(follow()) for _ in range(3)]
        await until(lambda: world.num_looks > 0)
        world.watch.stop()
        await asyncio.gather(*tasks)
        assert not world.watch.is_watching
        assert await follow() == 0


async def test_who_asks_for_figures_within_half_an_interval_gets_the_same(world: World) -> None:
    anybody: Any = world
    watch = ClusterWatch(world.own, anybody, world.table, anybody, interval_s=3600.0)
    request = Request("", b"", b"", {})
    answers = [await watch.figures(request) for _ in range(5)]
    assert world.num_looks == 1
    assert len({answer.body for answer in answers if isinstance(answer.body, bytes)}) == 1
