"""Forwarded calls while slots change hands, with workers that exist only as answers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import pytest

from tests.sim.virtual_loop import VirtualLoop
from tests.waiting import NEVER_S, no_hang
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    EpisodeEndedError,
    MovedError,
    SequenceGapError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)
from verl_agent_env.server.cluster.forwarding import Forwarder
from verl_agent_env.server.cluster.peers import PeerAnswer, Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.http.dispatcher import call
from verl_agent_env.server.http.headers import HOP_HEADER, KEY_HEADER, OPERATION_HEADER, PRINCIPAL_HEADER
from verl_agent_env.server.http.idempotency import name_of_key
from verl_agent_env.server.http.tokens import Principal
from verl_agent_env.server.http.types import Request, Response, Route
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS, new_env_id
from verl_agent_env.waits import OWNER_S

HERE, B, C = "here:1", "b:2", "c:3"
ENV_ID = "00a-" + "0" * 32
SLOT = 0x00A

Answer = Callable[[str], Awaitable[PeerAnswer]]


class Workers:
    """The other workers; each call is answered by ``answer``, which is told whom it met."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.headers: list[Mapping[bytes, bytes]] = []
        self.is_silent = False
        """Whether a worker that has a call gives no sign of life."""

    def heard_at(self, address: str) -> float | None:
        return None if self.is_silent else asyncio.get_running_loop().time()

    async def call(
        self, address: str, method: str, path: str, body: bytes, headers: Mapping[bytes, bytes]
    ) -> PeerAnswer:
        self.asked.append(address)
        self.headers.append(headers)
        return await self.answer(address)


async def handled_here(request: Request) -> Response:
    return Response(b"here")


STEP = Route("POST", "/api/environment/{env_id}/step", handled_here, "", owned_by="environment")
INITIALIZE = Route("POST", "/api/environment/initialize", handled_here, "", owned_by="key")


def table_with(owner: str | None) -> SlotTable:
    """This worker owns nothing; all slots are ``owner``'s."""
    table = SlotTable(HERE)
    table.assign([owner] * NUM_SLOTS, ())
    return table


def forwarder(table: SlotTable, workers: Workers) -> Forwarder:
    async def refresh() -> None:
        await asyncio.sleep(0)

    peers = cast(Peers, workers)
    return Forwarder(Router(table, peers, refresh), peers)


def a_call(**headers: bytes) -> Request:
    return Request(
        ENV_ID, b"{}", b"", {name.replace("_", "-").encode(): value for name, value in headers.items()}
    )


def body_of(response: Response) -> bytes:
    return bytes(response.body)


async def test_a_call_goes_to_the_owner_of_its_slot_and_no_further() -> None:
    async def answer(address: str) -> PeerAnswer:
        return PeerAnswer(address.encode(), b"text/plain")

    workers = Workers(answer)
    pinned = forwarder(table_with(C), workers).route_to_owner(STEP)
    reply = await call(pinned, a_call())
    assert (body_of(reply), workers.asked) == (C.encode(), [C])
    assert reply.media_type == b"text/plain"
    with pytest.raises(MovedError) as moved:
        await call(pinned, Request(ENV_ID, b"", b"", {HOP_HEADER: b"1"}))
    assert moved.value.slot == SLOT
    assert workers.asked == [C]


async def test_the_id_of_a_cluster_of_more_slots_is_known_to_nobody() -> None:
    async def answer(address: str) -> PeerAnswer:
        raise AssertionError(address)

    pinned = forwarder(table_with(C), Workers(answer)).route_to_owner(STEP)
    env_id = new_env_id(NUM_SLOTS + SLOT, "", MANY_SLOTS)
    with pytest.raises(EnvironmentNotFoundError) as unknown:
        await call(pinned, Request(env_id, b"", b"", {}))
    assert unknown.value.env_id == env_id


async def test_a_call_follows_a_slot_that_moves_and_keeps_its_operation() -> None:
    table = table_with(B)

    async def answer(address: str) -> PeerAnswer:
        if address == B:
            table.assign([C] * NUM_SLOTS, ())
            raise MovedError(SLOT)
        return PeerAnswer(b"there", b"application/json")

    workers = Workers(answer)
    assert body_of(await call(forwarder(table, workers).route_to_owner(STEP), a_call())) == b"there"
    assert workers.asked == [B, C]
    operations = {headers[OPERATION_HEADER] for headers in workers.headers}
    assert len(operations) == 1


async def test_a_call_that_was_tried_here_first_keeps_its_operation() -> None:
    table = table_with(HERE)
    table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS))
    tried: list[bytes] = []

    async def refused_here(request: Request) -> Response:
        tried.append(request.operation())
        table.assign([C] * NUM_SLOTS, ())
        raise MovedError(SLOT)

    async def answer(address: str) -> PeerAnswer:
        return PeerAnswer(b"there", b"application/json")

    workers = Workers(answer)
    pinned = forwarder(table, workers).route_to_owner(dataclasses.replace(STEP, handler=refused_here))
    assert body_of(await call(pinned, a_call())) == b"there"
    assert [headers[OPERATION_HEADER] for headers in workers.headers] == tried
    assert len(tried) == 1


async def test_an_operation_is_the_same_here_and_at_any_other_worker() -> None:
    table = table_with(HERE)
    seen: list[bytes] = []

    async def handled(request: Request) -> Response:
        seen.append(request.operation())
        return Response(b"here")

    async def answer(address: str) -> PeerAnswer:
        return PeerAnswer(b"there", b"application/json")

    workers = Workers(answer)
    pinned = forwarder(table, workers).route_to_owner(dataclasses.replace(STEP, handler=handled))
    for given in (b"0123456789abcdef", "h\u00e9 llo".encode("latin-1"), b"x" * 10_000):
        table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS))
        await call(pinned, a_call(x_operation_id=given))
        table.assign([C] * NUM_SLOTS, ())
        await call(pinned, a_call(x_operation_id=given))
        assert workers.headers[-1][OPERATION_HEADER] == seen[-1]
        assert seen[-1].isascii()
        assert len(seen[-1]) <= 64


@pytest.mark.parametrize(
    "error", [MovedError(SLOT), WorkerUnreachableError(B, "it broke", may_have_run=True)]
)
def test_a_call_follows_its_slot_however_long_the_last_owner_was_at_work_on_it(
    error: VerlAgentEnvError,
) -> None:
    loop = VirtualLoop()
    table = table_with(B)

    async def answer(address: str) -> PeerAnswer:
        if address == B:
            await asyncio.sleep(20)
            # Not at once: the next owner has to be found.
            asyncio.get_running_loop().call_later(1, table.assign, [C] * NUM_SLOTS, ())
            raise error
        return PeerAnswer(b"there", b"application/json")

    try:
        calling = call(forwarder(table, Workers(answer)).route_to_owner(STEP), a_call())
        assert body_of(loop.run_until_complete(calling)) == b"there"
    finally:
        loop.end()


def test_a_call_without_an_owner_ends_with_patience() -> None:
    loop = VirtualLoop()
    began = loop.time()

    async def answer(address: str) -> PeerAnswer:
        await asyncio.sleep(2)
        raise WorkerUnreachableError(address, "no connection came about", may_have_run=False)

    try:
        calling = call(forwarder(table_with(B), Workers(answer)).route_to_owner(STEP), a_call())
        with pytest.raises(WorkerUnreachableError):
            loop.run_until_complete(calling)
        assert OWNER_S <= loop.time() - began < OWNER_S + 3
    finally:
        loop.end()


async def test_a_call_comes_home_when_its_slot_does() -> None:
    table = table_with(B)

    async def answer(address: str) -> PeerAnswer:
        table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS))
        raise WorkerUnreachableError(address, "gone")

    assert body_of(await call(forwarder(table, Workers(answer)).route_to_owner(STEP), a_call())) == b"here"


async def test_a_worker_that_hangs_is_given_up_when_its_slot_goes_to_another_one() -> None:
    table = table_with(B)
    entered = asyncio.Event()

    async def answer(address: str) -> PeerAnswer:
        if address == B:
            entered.set()
            await asyncio.sleep(NEVER_S)
        return PeerAnswer(b"there", b"application/json")

    calling = asyncio.ensure_future(call(forwarder(table, Workers(answer)).route_to_owner(STEP), a_call()))
    await entered.wait()
    # Any other change does not matter to it.
    table.assign([B] * NUM_SLOTS, (), for_new={C: [1]})
    for _ in range(3):
        await asyncio.sleep(0)
    assert not calling.done()
    table.assign([C] * NUM_SLOTS, ())
    async with no_hang():
        assert body_of(await calling) == b"there"


async def test_a_step_that_moved_waits_for_those_that_were_before_it() -> None:
    answers: list[VerlAgentEnvError | None] = [MovedError(SLOT), SequenceGapError(ENV_ID, 1, 0), None]

    async def answer(_: str) -> PeerAnswer:
        error = answers.pop(0)
        if error is not None:
            raise error
        return PeerAnswer(b"there", b"application/json")

    assert (
        body_of(await call(forwarder(table_with(B), Workers(answer)).route_to_owner(STEP), a_call()))
        == b"there"
    )
    assert answers == []
    # One that met its owner at once hears at once what is missing.
    answers.append(SequenceGapError(ENV_ID, 1, 0))
    with pytest.raises(SequenceGapError):
        await call(forwarder(table_with(B), Workers(answer)).route_to_owner(STEP), a_call())


def test_a_step_that_moved_and_misses_others_for_good_hears_so_in_the_end() -> None:
    loop = VirtualLoop()
    table = table_with(HERE)
    table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS))

    async def moves(_: Request) -> Response:
        table.assign([B] * NUM_SLOTS, ())
        raise MovedError(SLOT)

    async def answer(_: str) -> PeerAnswer:
        raise SequenceGapError(ENV_ID, 1, 0)

    try:
        pinned = forwarder(table, Workers(answer)).route_to_owner(dataclasses.replace(STEP, handler=moves))
        with pytest.raises(SequenceGapError):
            loop.run_until_complete(call(pinned, a_call()))
        assert OWNER_S <= loop.time() - 1000.0 < OWNER_S + 1
    finally:
        loop.end()


async def test_the_owners_own_error_is_the_answer() -> None:
    async def answer(_: str) -> PeerAnswer:
        raise EpisodeEndedError(ENV_ID)

    workers = Workers(answer)
    with pytest.raises(EpisodeEndedError):
        await call(forwarder(table_with(B), workers).route_to_owner(STEP), a_call())
    assert workers.asked == [B]


async def test_a_key_is_answered_for_by_the_owner_of_its_slot() -> None:
    async def answer(address: str) -> PeerAnswer:
        return PeerAnswer(address.encode(), b"application/json")

    workers = Workers(answer)
    table = SlotTable(HERE)
    # Without a key, any worker sees to it.
    table.assign([C] * NUM_SLOTS, ())
    pinned = forwarder(table, workers).route_to_owner(INITIALIZE)
    assert body_of(await call(pinned, a_call())) == b"here"
    for holder in ("a", "b"):
        request = a_call(idempotency_key=b"key", x_env_principal=b"admin root")
        request.principal = Principal.holder(holder, ["run"])
        assert body_of(await call(pinned, request)) == C.encode()
    # The owner learns the name of the key, and on whose behalf it is called.
    assert len({headers[KEY_HEADER] for headers in workers.headers}) == 2
    assert [headers[PRINCIPAL_HEADER] for headers in workers.headers] == [b"read,run a", b"read,run b"]
    for headers in workers.headers:
        there = Request("", b"", b"", {KEY_HEADER: headers[KEY_HEADER], HOP_HEADER: b"1"})
        there.principal = Principal.from_text(headers[PRINCIPAL_HEADER].decode())
        assert name_of_key(there) == headers[KEY_HEADER].decode()


async def test_a_key_comes_home_as_its_client_gave_it() -> None:
    table = table_with(B)

    async def answer(address: str) -> PeerAnswer:
        table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS))
        raise WorkerUnreachableError(address, "gone")

    async def handled(request: Request) -> Response:
        return Response(request.headers[KEY_HEADER])

    route = dataclasses.replace(INITIALIZE, handler=handled)
    pinned = forwarder(table, Workers(answer)).route_to_owner(route)
    assert body_of(await call(pinned, a_call(idempotency_key=b"key"))) == b"key"
