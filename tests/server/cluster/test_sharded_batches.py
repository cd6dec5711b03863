"""Batches over workers that lose answers, die at work and lose slots: nothing is done twice, and nothing is given up early."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

import orjson
import pytest

from tests import batch_calls
from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.host.batches import Batches
from verl_agent_env.envs.registry import Registry, default_registry
from verl_agent_env.errors import (
    AnswerTooLargeError,
    EnvironmentNotFoundError,
    MovedError,
    SequenceGapError,
    ShuttingDownError,
    StoreUnavailableError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)
from verl_agent_env.seeds import following_seed
from verl_agent_env.server.cluster.internal import InternalHandlers, WorkerControl
from verl_agent_env.server.cluster.peers import PeerAnswer, Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.cluster.sharded_batches import ShardedBatches
from verl_agent_env.server.http.types import Request
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS, new_env_id, slot_of
from verl_agent_env.waits import OWNER_S
from verl_agent_env.wire.parts import encode_run_part, encode_step_part
from verl_agent_env.wire.results import EncodedReset, EncodedStep, size_of

HERE, B, C = "here:1", "b:2", "c:3"
LAKE = {"desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"], "is_slippery": False, "max_steps": 500}


class Worker:
    """One worker without HTTP: its host, and its part of batches."""

    def __init__(self, address: str, registry: Registry, **limits: Any) -> None:
        self.table = SlotTable(address)
        self.host = Host(registry, HostLimits(yield_after_s=1e6, **limits))
        self.batches = Batches(self.host)
        internal = InternalHandlers(self.batches, self.table, cast(WorkerControl, None))
        self.handlers = {route.path: route.handler for route in internal.routes()}


class Net:
    """Brings calls to the workers; what happens to answers is up to ``fate``."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers
        self.bodies: list[dict[str, Any]] = []
        self.fate: Callable[[str, Awaitable[PeerAnswer]], Awaitable[PeerAnswer]] = self.deliver
        self.lose = 0
        """Answers that get lost from now on."""

    def heard_at(self, address: str) -> float | None:
        return asyncio.get_running_loop().time()

    async def call(
        self,
        address: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[bytes, bytes] | None = None,
    ) -> PeerAnswer:
        self.bodies.append(orjson.loads(body))
        return await self.fate(address, self._carry_out(address, path, body, headers or {}))

    async def deliver(self, address: str, answer: Awaitable[PeerAnswer]) -> PeerAnswer:
        done = await answer
        if self.lose:
            self.lose -= 1
            raise WorkerUnreachableError(address, "the connection broke before the answer came")
        return done

    async def _carry_out(
        self, address: str, path: str, body: bytes, headers: Mapping[bytes, bytes]
    ) -> PeerAnswer:
        response = await await_maybe(self._workers[address].handlers[path](Request("", body, b"", headers)))
        return PeerAnswer(bytes(response.body), response.media_type)


class World:
    """Three workers; B owns all slots, and the first one is asked."""

    def __init__(self, **limits: Any) -> None:
        registry = default_registry()
        self.workers = {address: Worker(address, registry, **limits) for address in (HERE, B, C)}
        self.net = Net(self.workers)
        self.refreshed = 0
        self.asked = self.workers[HERE]
        self.batches = self.sharded(cast(Peers, self.net))
        self.give_all_to(B)

    def give_all_to(self, owner: str) -> None:
        """Have one worker own all slots."""
        for address, worker in self.workers.items():
            mine = range(NUM_SLOTS) if address == owner else ()
            worker.table.assign([owner] * NUM_SLOTS, mine, for_new={owner: range(NUM_SLOTS)})

    def sharded(self, peers: Peers) -> ShardedBatches:
        """The batch calls of the worker that is asked, with these others."""
        return ShardedBatches(self.asked.batches, Router(self.asked.table, peers, self._refresh), peers)

    async def _refresh(self) -> None:
        self.refreshed += 1
        await asyncio.sleep(0)

    async def create(self, count: int) -> list[str]:
        """Make environments at their owner."""
        requests = [CreateRequest("frozen_lake", 7, LAKE) for _ in range(count)]
        return [
            result[0]
            for result in await batch_calls.create(self.batches, requests)
            if isinstance(result, tuple)
        ]

    def seqs(self, env_ids: list[str], owner: str = B) -> list[int]:
        """The steps that each environment has taken."""
        return [self.workers[owner].host.env_table.find(env_id).seq for env_id in env_ids]


async def test_ids_of_a_cluster_of_more_slots_are_known_to_nobody_and_stop_no_others(world: World) -> None:
    env_ids = await world.create(2)
    strange = new_env_id(NUM_SLOTS, "", MANY_SLOTS)
    results = await batch_calls.step(world.batches, [env_ids[0], strange, env_ids[1]], ["right"] * 3, [0] * 3)
    assert isinstance(results[1], EnvironmentNotFoundError)
    assert results[1].env_id == strange
    assert world.seqs(env_ids) == [1, 1]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for worker in made.workers.values():
        await worker.host.stop()


def steps_taken(results: list[Any]) -> list[int]:
    assert all(isinstance(result, EncodedStep) for result in results), results
    return [orjson.loads(result.info)["num_steps"] for result in results]


@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize(
    "seqs",
    [None, [None] * 5, [0, None, None, None, None], [0, 0, 1, 1, 2], [None, 0, 1, None, None]],
    ids=["none", "nulls", "mixed", "numbered", "mixed doubles"],
)
async def test_a_lost_answer_applies_nothing_twice(
    world: World, lost: int, seqs: list[int | None] | None
) -> None:
    first, second = await world.create(2)
    env_ids = [first, second, first, second, first]
    world.net.lose = lost
    results = await batch_calls.step(world.batches, env_ids, ["right"] * 5, seqs)
    assert steps_taken(results) == [1, 1, 2, 2, 3]
    assert world.seqs([first, second]) == [3, 2]


@pytest.mark.parametrize("seqs", [None, [None] * 3, [0, None, 0], [0, 0, 0]])
async def test_a_lost_answer_applies_nothing_twice_where_no_environment_stands_twice(
    world: World, seqs: list[int | None] | None
) -> None:
    env_ids = await world.create(3)
    world.net.lose = 2
    assert steps_taken(await batch_calls.step(world.batches, env_ids, ["right"] * 3, seqs)) == [1, 1, 1]
    assert world.seqs(env_ids) == [1, 1, 1]


async def test_a_lost_answer_of_resets_begins_no_other_episode(world: World) -> None:
    env_ids = await world.create(2)
    await batch_calls.step(world.batches, env_ids, ["right"] * 2, None)
    world.net.lose = 2
    results = await batch_calls.reset(world.batches, [*env_ids, *env_ids], [1, 2, 3, None], None)
    beginnings = [result.to_json() for result in results if isinstance(result, EncodedReset)]
    assert len(beginnings) == 4
    # The last one goes on from the seed before it.
    seeds = [1, 2, 3, following_seed(2)]
    assert [orjson.loads(beginning)["info"]["seed"] for beginning in beginnings] == seeds
    assert [world.workers[B].host.env_table.find(env_id).episode for env_id in env_ids] == [2, 2]


async def test_a_lost_answer_of_new_environments_makes_no_others(world: World) -> None:
    world.net.lose = 2
    env_ids = await world.create(5)
    assert len(set(env_ids)) == 5
    assert len(world.workers[B].host.env_table) == 5


async def test_a_lost_answer_of_closings_closes_no_others(world: World) -> None:
    first, second, third = await world.create(3)
    world.net.lose = 2
    closed, errors = await batch_calls.close(world.batches, [first, second, first, new_env_id(1)])
    assert closed == 3
    assert [(index, type(error)) for index, error in errors] == [(3, EnvironmentNotFoundError)]
    assert world.workers[B].host.env_table.ids() == [third]


async def test_a_copy_that_comes_late_is_not_carried_out_after_what_followed(world: World) -> None:
    env_ids = await world.create(2) * 2
    held = asyncio.Event()
    copies: list[asyncio.Future[PeerAnswer]] = []

    async def hold_up_the_first(address: str, answer: Awaitable[PeerAnswer]) -> PeerAnswer:
        world.net.fate = world.net.deliver

        async def later() -> PeerAnswer:
            await held.wait()
            return await answer

        copies.append(asyncio.ensure_future(later()))
        raise WorkerUnreachableError(address, "it did not answer in time")

    world.net.fate = hold_up_the_first
    assert steps_taken(await batch_calls.step(world.batches, env_ids, ["right"] * 4, None)) == [1, 1, 2, 2]
    assert steps_taken(await batch_calls.step(world.batches, env_ids, ["right"] * 4, None)) == [3, 3, 4, 4]
    held.set()
    await asyncio.gather(*copies)
    assert world.seqs(env_ids[:2]) == [4, 4]


async def test_what_all_items_share_is_sent_once(world: World) -> None:
    env_ids = await world.create(3)
    await batch_calls.step(world.batches, env_ids, ["right"] * 3, None)
    await batch_calls.step(world.batches, env_ids, ["right"] * 3, [1, 1, 1])
    await batch_calls.step(world.batches, [*env_ids, env_ids[0]], ["right"] * 4, [2, 2, 2, 3])
    plain, numbered, double = (body["operations"] for body in world.net.bodies[-3:])
    assert isinstance(plain, str)
    assert isinstance(numbered, str)
    assert double == [double[0]] * 3 + [f"{double[0]} 1"]


# --- how long a batch is sent again ----------------------------------------------------------------------------


def in_virtual_time(play: Callable[[World, VirtualLoop], Awaitable[None]]) -> None:
    """Play on a loop on which waiting takes no time."""
    loop = VirtualLoop()

    async def whole() -> None:
        world = World()
        try:
            await play(world, loop)
        finally:
            for worker in world.workers.values():
                await worker.host.stop()

    try:
        loop.run_until_complete(whole())
    finally:
        loop.end()


@pytest.mark.parametrize("work_s", [1.0, 20.0])
def test_a_part_goes_to_the_next_owner_however_long_the_last_one_was_at_work_on_it(work_s: float) -> None:
    async def play(world: World, loop: VirtualLoop) -> None:
        async def die_at_work(address: str, answer: Awaitable[PeerAnswer]) -> PeerAnswer:
            await answer
            await asyncio.sleep(work_s)
            world.net.fate = world.net.deliver
            world.give_all_to(C)
            raise WorkerUnreachableError(address, "the connection broke before the answer came")

        world.net.fate = die_at_work
        assert len(await world.create(3)) == 3
        assert len(world.workers[C].host.env_table) == 3

    in_virtual_time(play)


@pytest.mark.parametrize("work_s", [1.0, 20.0])
def test_a_part_that_loses_its_slots_after_long_work_follows_them(work_s: float) -> None:
    async def play(world: World, loop: VirtualLoop) -> None:
        async def lose_slots_at_work(address: str, answer: Awaitable[PeerAnswer]) -> PeerAnswer:
            await asyncio.sleep(work_s)
            world.net.fate = world.net.deliver
            world.give_all_to(HERE)
            return await answer

        world.net.fate = lose_slots_at_work
        assert len(await world.create(3)) == 3
        assert len(world.asked.host.env_table) == 3

    in_virtual_time(play)


def test_an_owner_is_looked_for_until_patience_ends() -> None:
    async def play(world: World, loop: VirtualLoop) -> None:
        env_ids = await world.create(2)
        world.asked.table.assign([None] * NUM_SLOTS, ())
        began = loop.time()
        results = await batch_calls.step(world.batches, env_ids, ["right"] * 2, None)
        assert [type(result) for result in results] == [StoreUnavailableError] * 2
        assert OWNER_S <= loop.time() - began < OWNER_S + 1

    in_virtual_time(play)


def test_a_worker_that_breaks_every_connection_is_given_up() -> None:
    async def play(world: World, loop: VirtualLoop) -> None:
        env_ids = await world.create(2)
        world.net.lose = 10_000
        results = await batch_calls.step(world.batches, env_ids, ["right"] * 2, None)
        assert [type(result) for result in results] == [WorkerUnreachableError] * 2
        assert loop.time() - 1000.0 < 2 * OWNER_S
        assert world.seqs(env_ids) == [1, 1]

    in_virtual_time(play)


def test_a_worker_that_is_always_at_work_until_it_breaks_is_given_up_too() -> None:
    async def play(world: World, loop: VirtualLoop) -> None:
        async def work_in_vain(address: str, answer: Awaitable[PeerAnswer]) -> PeerAnswer:
            await answer
            await asyncio.sleep(100)
            raise WorkerUnreachableError(address, "it did not answer in time")

        world.net.fate = work_in_vain
        assert await world.create(1) == []
        assert 600 <= loop.time() - 1000.0 < 800

    in_virtual_time(play)


async def test_a_step_that_moved_waits_for_those_that_were_before_it(world: World) -> None:
    env_ids = await world.create(1)
    scripted: list[VerlAgentEnvError] = [MovedError(slot_of(env_ids[0])), SequenceGapError(env_ids[0], 1, 0)]

    async def told(address: str, answer: Awaitable[PeerAnswer]) -> PeerAnswer:
        if not scripted:
            return await answer
        cast(Coroutine[Any, Any, PeerAnswer], answer).close()
        return PeerAnswer(encode_step_part([scripted.pop(0)]), b"")

    world.net.fate = told
    (result,) = await batch_calls.step(world.batches, env_ids, ["right"], [0])
    assert isinstance(result, EncodedStep)
    # One that met its owner at once hears at once what is missing.
    (refused,) = await batch_calls.step(world.batches, env_ids, ["right"], [7])
    assert isinstance(refused, SequenceGapError)


async def test_run_is_closed_by_whoever_owned_each_slot_all_the_while(world: World) -> None:
    half = NUM_SLOTS // 2
    asked: list[str] = []

    class Others:
        """Another one's first answer leaves out slots that were changing hands."""

        def heard_at(self, address: str) -> float | None:
            return None

        async def call(self, address: str, method: str, path: str, body: bytes = b"") -> PeerAnswer:
            asked.append(address)
            slots = range(half, NUM_SLOTS - 3 if len(asked) == 1 else NUM_SLOTS)
            return PeerAnswer(encode_run_part(5, slots), b"")

    batches = world.sharded(cast(Peers, Others()))
    owners = [HERE if slot < half else B for slot in range(NUM_SLOTS)]
    world.asked.table.assign(owners, range(half))
    assert await batches.close_run("run") == (10, [])
    assert asked == [B, B]


async def test_a_batch_over_many_workers_has_no_longer_answer_than_one_on_a_single_worker() -> None:
    limit = 100_000
    world = World(max_answer_bytes=limit)
    half = NUM_SLOTS // 2
    owners = [HERE if slot < half else B for slot in range(NUM_SLOTS)]
    shares = {HERE: range(half), B: range(half, NUM_SLOTS)}
    for address, slots in shares.items():
        world.workers[address].table.assign(owners, slots, for_new=shares)
    chat = {"task_prompt": "x" * 10_000}
    requests = [CreateRequest("single_turn_chat", 1, chat) for _ in range(60)]
    results = await batch_calls.create(world.batches, requests)
    made = [result[1] for result in results if isinstance(result, tuple)]
    assert all(isinstance(result, tuple | AnswerTooLargeError) for result in results)
    assert {len(worker.host.env_table) > 0 for address, worker in world.workers.items() if address != C} == {
        True
    }
    # One answer more for each worker: it is known to be too long when it is there.
    assert sum(map(size_of, made)) < limit + 2 * 11_000
    assert len(made) == sum(len(worker.host.env_table) for worker in world.workers.values())


async def test_new_environments_are_for_all_workers_alike_though_one_has_all_slots_still(
    world: World,
) -> None:
    even, odd = range(0, NUM_SLOTS, 2), range(1, NUM_SLOTS, 2)
    # All slots are B's at present; half of them are on their way to C.
    for address, worker in world.workers.items():
        mine = range(NUM_SLOTS) if address == B else ()
        worker.table.assign([B] * NUM_SLOTS, mine, for_new={B: even, C: odd})
    env_ids = await world.create(100)
    assert Counter(slot_of(env_id) % 2 for env_id in env_ids) == {0: 50, 1: 50}
    assert world.seqs(env_ids) == [0] * 100
    single = [(await world.batches.create_one(CreateRequest("frozen_lake", 7, LAKE)))[0] for _ in range(60)]
    assert 15 <= sum(slot_of(env_id) % 2 for env_id in single) <= 45
    assert world.seqs(single) == [0] * 60


async def test_a_single_new_environment_whose_answer_got_lost_is_made_once(world: World) -> None:
    world.net.lose = 2
    env_id, _ = await world.batches.create_one(CreateRequest("frozen_lake", 7, LAKE))
    assert world.workers[B].host.env_table.ids() == [env_id]


def test_new_environments_wait_for_a_worker_that_takes_some() -> None:
    async def play(world: World, loop: VirtualLoop) -> None:
        world.asked.table.assign([B] * NUM_SLOTS, ())
        refused = await batch_calls.create(world.batches, [CreateRequest("frozen_lake", 7, LAKE)] * 2)
        assert [type(result) for result in refused] == [ShuttingDownError] * 2
        with pytest.raises(ShuttingDownError):
            await world.batches.create_one(CreateRequest("frozen_lake", 7, LAKE))
        assert 2 * OWNER_S <= loop.time() - 1000.0 < 2 * OWNER_S + 1
        loop.call_later(1, world.give_all_to, B)
        assert len(await world.create(2)) == 2

    in_virtual_time(play)


def test_a_part_that_is_sent_again_does_not_wait_for_the_others() -> None:
    async def play(world: World, loop: VirtualLoop) -> None:
        owners = [B if slot % 2 else C for slot in range(NUM_SLOTS)]
        for address, worker in world.workers.items():
            mine = [slot for slot in range(NUM_SLOTS) if owners[slot] == address]
            shares = {other: [slot for slot in range(NUM_SLOTS) if owners[slot] == other] for other in (B, C)}
            worker.table.assign(owners, mine, for_new=shares)
        done: dict[str, list[float]] = {B: [], C: []}

        async def slow_or_lost(address: str, answer: Awaitable[PeerAnswer]) -> PeerAnswer:
            result = await answer
            await asyncio.sleep(30 if address == B else 0)
            done[address].append(loop.time() - 1000.0)
            if address == C and len(done[C]) < 3:
                raise WorkerUnreachableError(address, "the connection broke before the answer came")
            return result

        world.net.fate = slow_or_lost
        assert len(await world.create(4)) == 4
        assert len(done[C]) == 3
        assert max(done[C]) < 1
        assert done[B] == [30]

    in_virtual_time(play)
