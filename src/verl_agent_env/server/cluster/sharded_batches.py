"""Batch calls over many workers: split by owner, sent side by side, put together again in the order of the request."""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from verl_agent_env.engine import CreateRequest
from verl_agent_env.engine.execution.budget import WHOLE_ROOM, AnswerRoom
from verl_agent_env.engine.host.batches import Batches, BatchItems, Closed, RunClosed
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    InternalError,
    InvalidRequestError,
    MovedError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.http.headers import ANSWER_SHARE_HEADER
from verl_agent_env.server.verbs.values import INITIALIZE, new_environments
from verl_agent_env.server.verbs.verb import Verb
from verl_agent_env.types import slot_of
from verl_agent_env.wire.large_bodies import write_unread
from verl_agent_env.wire.operations import new_call
from verl_agent_env.wire.parts import decode_run_part
from verl_agent_env.wire.results import Created

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERNAL_PREFIX = "/internal/batch/"
_ITEMS = 2048
"""Items that are given ids in one turn: some milliseconds."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch of which any part can be carried out anywhere, and again: nothing is done twice."""

    verb: Verb[Any]
    items: BatchItems
    room: AnswerRoom
    """Of the answers to all items."""


class ShardedBatches:
    """The batch calls on a cluster, from the worker that was asked."""

    def __init__(self, local: Batches, router: Router, peers: Peers) -> None:
        """Batch calls that any worker can be asked for.

        Args:
            local: Those of this worker.
            router: Finds owners.
            peers: The other workers.
        """
        self._local = local
        self._router = router
        self._address = router.table.address
        self._peers = peers

    async def run(
        self, verb: Verb[T], items: BatchItems, room: AnswerRoom = WHOLE_ROOM
    ) -> list[T | VerlAgentEnvError]:
        """Carry out a verb for each item, at the owner of its environment.

        New environments are made on all workers alike. Shares are contiguous: neighbours in the batch, such as the samples
        of one group, stay together. Ids and seeds are given here: a part whose answer got lost is sent again, and makes
        nothing twice.
        """
        if verb.makes_environments:
            try:
                items = await self._named(items)
            except VerlAgentEnvError as no_owner:
                return [no_owner.as_result()] * len(items)
        if items.operations is None:
            items = dataclasses.replace(items, operations=verb.operations(new_call(), items))
        slots, num_slots = [slot_of(env_id) for env_id in items.env_ids], self._router.table.num_slots
        if slots and max(slots) >= num_slots:
            # Ids of another cluster.
            kept = [position for position, slot in enumerate(slots) if slot < num_slots]
            results: list[Any] = [EnvironmentNotFoundError(e) for e in items.env_ids]
            ran = await self.run(verb, items.at(kept), room)
            for position, result in zip(kept, ran, strict=True):
                results[position] = result
            return results
        batch = _Batch(verb, items, room)
        return await self._router.until_owned(
            slots, lambda address, positions: self._part(batch, address, positions)
        )

    def least_share(self, requests: Sequence[CreateRequest]) -> int:
        """Give the least number of these new environments that one of many workers gets; see :meth:`Batches.least_share`."""
        return self._local.least_share(requests)

    async def create_one(self, request: CreateRequest) -> Created:
        """Make one environment, on any worker.

        Raises:
            VerlAgentEnvError: As :meth:`~verl_agent_env.engine.host.host.Host.create`.
            StoreUnavailableError, ShuttingDownError: No worker makes any at present.
        """
        (result,) = await self.run(INITIALIZE, new_environments([request]))
        if isinstance(result, VerlAgentEnvError):
            raise result
        return result

    async def _named(self, items: BatchItems) -> BatchItems:
        """Give each new environment an id and a seed; ids that they do not have lie in equal shares on all workers.

        Raises:
            StoreUnavailableError: Nobody may act for any slot at present.
            ShuttingDownError: All workers are about to end.
        """
        requests: Sequence[CreateRequest] = items.wanted or ()
        needs_ids = any(request.env_id is None for request in requests)
        slots: Sequence[int] = [0] * len(requests)
        if needs_ids:
            slots = await self._router.slots_for_new(len(requests), self.least_share(requests))
        named: list[CreateRequest] = []
        for number, (request, slot) in enumerate(zip(requests, slots, strict=True), 1):
            env_id = (
                self._router.table.new_env_id(slot, request.tag) if request.env_id is None else request.env_id
            )
            seed = secrets.randbits(53) if request.seed is None else request.seed
            named.append(dataclasses.replace(request, env_id=env_id, seed=seed))
            if number % _ITEMS == 0:
                await self._local.turn()
        return new_environments(named)

    async def close_run(self, run_id: str, tag: str | None = None) -> Closed:
        """Close all environments of a run, on every worker: in each slot once, by whoever owned it all the while.

        Args:
            run_id: The run.
            tag: Of the holder whose environments alone are meant; of all holders if not given.

        Raises:
            WorkerUnreachableError: One of the workers does not answer; the others have closed theirs.
            StoreUnavailableError: Slots have no owner, who could close what is in them.
        """
        closed = 0

        async def send(address: str, slots: list[int]) -> list[VerlAgentEnvError | None]:
            nonlocal closed
            part = await self._close_run_at(address, run_id, tag)
            closed += part.closed
            done = frozenset(part.slots)
            return [None if slot in done else MovedError(slot) for slot in slots]

        for error in await self._router.until_owned(range(self._router.table.num_slots), send):
            if error is not None:
                raise error
        return Closed(closed, [])

    async def _close_run_at(self, address: str, run_id: str, tag: str | None) -> RunClosed:
        if address == self._address:
            closed, slots = await self._local.close_run_of_slots(run_id, tag)
            return RunClosed(closed, [slot for slot in slots if self._router.table.owns(slot)])
        # Without a tag, as workers of an earlier version read it.
        body = orjson.dumps({"run_id": run_id} | ({} if tag is None else {"tag": tag}))
        answer = await self._peers.call(address, "POST", f"{INTERNAL_PREFIX}close-run", body)
        try:
            return RunClosed(*decode_run_part(answer.body))
        except ValueError as unreadable:
            raise WorkerUnreachableError(address, "its answer cannot be read") from unreadable

    # --- split, send, merge ---------------------------------------------------------------------------------

    async def _part(self, batch: _Batch, address: str, positions: list[int]) -> Sequence[Any]:
        """Carry out one worker's part of a batch; its error in place of each result if it fails."""
        error: VerlAgentEnvError
        try:
            items = batch.items.at(positions)
            room = batch.room.part(len(items), len(batch.items))
            if address == self._address:
                return await self._local.run(batch.verb, items, room)
            return await self._there(batch.verb, address, items, room)
        except VerlAgentEnvError as raised:
            error = raised.as_result()
        except Exception:
            # A defect in one part: the others are carried out, and their results must not get lost.
            logger.exception("part of a batch failed with an internal error", extra={"address": address})
            error = InternalError()
        return [error] * len(positions)

    async def _there(
        self, verb: Verb[T], address: str, items: BatchItems, room: AnswerRoom
    ) -> Sequence[T | VerlAgentEnvError]:
        """Have another worker carry out a part."""
        try:
            body = orjson.dumps(verb.write_part(items), write_unread, orjson.OPT_NON_STR_KEYS)
        except TypeError:
            if len(items) == 1:
                raise InvalidRequestError(
                    [{"loc": [], "msg": "cannot be sent on; nest it less deeply"}]
                ) from None
            # JSON that can be read but not written, in one item at least: look for it by halves.
            part, middle, size = _Batch(verb, items, room), len(items) // 2, len(items)
            first = await self._part(part, address, list(range(middle)))
            return [*first, *await self._part(part, address, list(range(middle, size)))]
        answer = await self._peers.call(
            address, "POST", INTERNAL_PREFIX + verb.name, body, {ANSWER_SHARE_HEADER: b"%.9f" % room.share}
        )
        room.memory.answer(len(answer.body))
        try:
            results = verb.decode_part(answer.body)
        except ValueError as unreadable:
            raise WorkerUnreachableError(address, "its answer cannot be read") from unreadable
        if len(results) != len(items):
            raise WorkerUnreachableError(address, "its answer has another number of items")
        return results
