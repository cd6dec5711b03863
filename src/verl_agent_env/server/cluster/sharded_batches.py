"""Batch calls over many workers: split by owner, sent side by side, put together again in the order of the request."""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from verl_agent_env.engine import CreateRequest
from verl_agent_env.engine.batches import Batches, Closed, RunClosed
from verl_agent_env.engine.budget import WHOLE_ROOM, AnswerRoom
from verl_agent_env.errors import (
    InternalError,
    InvalidRequestError,
    MovedError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.http.headers import ANSWER_SHARE_HEADER
from verl_agent_env.types import NUM_SLOTS, new_env_id, slot_of
from verl_agent_env.wire.large_bodies import write_unread
from verl_agent_env.wire.operations import new_call, operations_of, steps_of
from verl_agent_env.wire.parts import (
    decode_closed_part,
    decode_created_part,
    decode_reset_part,
    decode_run_part,
    decode_step_part,
)
from verl_agent_env.wire.results import EncodedReset, EncodedStep

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERNAL_PREFIX = "/internal/batch/"
_ITEMS = 2048
"""Items that are given ids in one turn: some milliseconds."""


@dataclass(frozen=True)
class _Work:
    """One batch call, in a form of which any part can be carried out anywhere, and again: nothing is done twice."""

    name: str
    here: Callable[[list[int], AnswerRoom], Awaitable[Sequence[Any]]]
    """Carries out the items at these positions on this worker; their answers have so much room."""
    body: Callable[[list[int]], dict[str, Any]]
    """What to send to another worker for the items at these positions."""
    decode: Callable[[bytes], Sequence[Any]]
    """Reads its answer."""
    room: AnswerRoom = WHOLE_ROOM
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

    async def create(
        self, requests: Sequence[CreateRequest], room: AnswerRoom = WHOLE_ROOM
    ) -> list[tuple[str, EncodedReset] | VerlAgentEnvError]:
        """Make an environment for each request, on all workers alike.

        Shares are contiguous: neighbours in the batch, such as the samples of one group, stay together. Ids and seeds
        are given here: a part whose answer got lost is sent again, and makes nothing twice.
        """
        try:
            named = await self._named(requests)
        except VerlAgentEnvError as nobody:
            return [nobody] * len(requests)
        work = _Work(
            "initialize",
            lambda positions, room: self._local.create(_pick(named, positions), room),
            lambda positions: _columns_of(_pick(named, positions)),
            decode_created_part,
            room,
        )
        return await self._carry_out(work, [request.env_id or "" for request in named])

    async def create_one(self, request: CreateRequest) -> tuple[str, EncodedReset]:
        """Make one environment, on any worker.

        Raises:
            VerlAgentEnvError: As :meth:`~verl_agent_env.engine.host.Host.create`.
            StoreUnavailableError, ShuttingDownError: No worker makes any at present.
        """
        (result,) = await self.create([request])
        if isinstance(result, VerlAgentEnvError):
            raise result
        return result

    async def _named(self, requests: Sequence[CreateRequest]) -> list[CreateRequest]:
        """Give each request an id and a seed; ids that they do not have lie in equal shares on all workers.

        Raises:
            StoreUnavailableError: Nobody may act for any slot at present.
            ShuttingDownError: All workers are about to end.
        """
        needs_ids = any(request.env_id is None for request in requests)
        slots = await self._router.slots_for_new(len(requests)) if needs_ids else [0] * len(requests)
        named: list[CreateRequest] = []
        for number, (request, slot) in enumerate(zip(requests, slots, strict=True), 1):
            env_id = new_env_id(slot, request.tag) if request.env_id is None else request.env_id
            seed = secrets.randbits(53) if request.seed is None else request.seed
            named.append(dataclasses.replace(request, env_id=env_id, seed=seed))
            if number % _ITEMS == 0:
                await self._local.turn()
        return named

    async def reset(
        self,
        env_ids: Sequence[str],
        seeds: Sequence[int | None] | None,
        options: Sequence[dict[str, Any] | None] | None,
        operations: Sequence[bytes] | None = None,
        room: AnswerRoom = WHOLE_ROOM,
    ) -> list[EncodedReset | VerlAgentEnvError]:
        """Reset each environment where it lives.

        Args:
            env_ids: The environments.
            seeds: Of their episodes.
            options: Of the environments.
            operations: Ids of the resets, the same when they are sent again.
            room: Of their answers.
        """
        if operations is None:
            operations = operations_of(new_call(), env_ids)
        work = _Work(
            "reset",
            lambda positions, room: self._local.reset(
                _pick(env_ids, positions),
                _picked(seeds, positions),
                _picked(options, positions),
                _picked(operations, positions),
                room,
            ),
            lambda positions: {
                "env_ids": _pick(env_ids, positions),
                "seeds": _picked(seeds, positions),
                "options": _shared_or_picked(options, positions),
                "operations": _as_text(_picked(operations, positions)),
            },
            decode_reset_part,
            room,
        )
        return await self._carry_out(work, env_ids)

    async def step(
        self,
        env_ids: Sequence[str],
        actions: Sequence[Any],
        seqs: Sequence[int | None] | None,
        operations: Sequence[bytes] | None = None,
        room: AnswerRoom = WHOLE_ROOM,
    ) -> list[EncodedStep | VerlAgentEnvError]:
        """Step each environment where it lives.

        Args:
            env_ids: The environments.
            actions: An action for each.
            seqs: Numbers of the steps within their episodes.
            operations: Ids of the steps, the same when they are sent again.
            room: Of their answers.
        """
        if operations is None:
            operations = steps_of(new_call(), env_ids, seqs)
        work = _Work(
            "step",
            lambda positions, room: self._local.step(
                _pick(env_ids, positions),
                _pick(actions, positions),
                _picked(seqs, positions),
                _picked(operations, positions),
                room,
            ),
            lambda positions: {
                "env_ids": _pick(env_ids, positions),
                "actions": _pick(actions, positions),
                "seqs": _picked(seqs, positions),
                "operations": _as_text(_picked(operations, positions)),
            },
            decode_step_part,
            room,
        )
        return await self._carry_out(work, env_ids)

    async def close(self, env_ids: Sequence[str]) -> Closed:
        """Close each environment where it lives."""

        async def here(positions: list[int], _: AnswerRoom) -> list[VerlAgentEnvError | None]:
            results: list[VerlAgentEnvError | None] = [None] * len(positions)
            for index, error in (await self._local.close(_pick(env_ids, positions))).errors:
                results[index] = error
            return results

        work = _Work(
            "close",
            here,
            lambda positions: {"env_ids": _pick(env_ids, positions)},
            decode_closed_part,
        )
        results = await self._carry_out(work, env_ids)
        errors = [(i, result) for i, result in enumerate(results) if result is not None]
        return Closed(len(env_ids) - len(errors), errors)

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

        for error in await self._router.until_owned(range(NUM_SLOTS), send):
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

    async def _carry_out(self, work: _Work, env_ids: Sequence[str]) -> list[Any]:
        """Return results in order of position."""
        size = len(env_ids)
        return await self._router.until_owned(
            [slot_of(env_id) for env_id in env_ids],
            lambda address, positions: self._part(work, address, positions, size),
        )

    async def _part(self, work: _Work, address: str, positions: list[int], size: int) -> Sequence[Any]:
        """Carry out one worker's part of a batch of this size; its error in place of each result if it fails."""
        error: VerlAgentEnvError
        try:
            if address == self._address:
                return await work.here(positions, work.room.part(len(positions), size))
            return await self._there(work, address, positions, size)
        except VerlAgentEnvError as raised:
            error = raised
        except Exception:
            # A defect in one part: the others are carried out, and their results must not get lost.
            logger.exception("a part of a batch failed", extra={"address": address})
            error = InternalError()
        return [error] * len(positions)

    async def _there(self, work: _Work, address: str, positions: list[int], size: int) -> Sequence[Any]:
        """Have another worker carry out its part."""
        try:
            body = orjson.dumps(work.body(positions), write_unread, orjson.OPT_NON_STR_KEYS)
        except TypeError:
            if len(positions) == 1:
                raise InvalidRequestError(
                    [{"loc": [], "msg": "cannot be sent on; nest it less deeply"}]
                ) from None
            # JSON that can be read but not written, in one item at least: look for it by halves.
            middle = len(positions) // 2
            first = await self._part(work, address, positions[:middle], size)
            return [*first, *await self._part(work, address, positions[middle:], size)]
        share = b"%.9f" % work.room.part(len(positions), size).share
        answer = await self._peers.call(
            address, "POST", INTERNAL_PREFIX + work.name, body, {ANSWER_SHARE_HEADER: share}
        )
        work.room.memory.answer(len(answer.body))
        try:
            results = work.decode(answer.body)
        except ValueError as unreadable:
            raise WorkerUnreachableError(address, "its answer cannot be read") from unreadable
        if len(results) != len(positions):
            raise WorkerUnreachableError(address, "its answer has another number of items")
        return results


def _columns_of(requests: Sequence[CreateRequest]) -> dict[str, Any]:
    """Make the body of the internal call: as in the API, with a name and arguments for each item, and one run for all."""
    first = requests[0]
    shared_kwargs = all(request.env_kwargs is first.env_kwargs for request in requests)
    same_name = all(request.env_name == first.env_name for request in requests)
    return {
        "env_name": first.env_name if same_name else None,
        "env_names": None if same_name else [request.env_name for request in requests],
        "env_kwargs": first.env_kwargs if shared_kwargs else [request.env_kwargs for request in requests],
        "seeds": [request.seed for request in requests],
        "run_id": first.run_id,
        "ttl_s": first.ttl_s,
        "env_ids": [request.env_id for request in requests],
    }


def _pick(values: Sequence[T], positions: list[int]) -> list[T]:
    return [values[position] for position in positions]


def _picked(values: Sequence[T] | None, positions: list[int]) -> list[T] | None:
    return None if values is None else _pick(values, positions)


def _shared_or_picked(values: Sequence[T] | None, positions: list[int]) -> T | list[T] | None:
    """Pick values by position; a value that all items share is sent once."""
    picked = _picked(values, positions)
    return picked[0] if picked and all(value is picked[0] for value in picked) else picked


def _as_text(operations: Sequence[bytes] | None) -> str | list[str] | None:
    """Write request ids as they are sent; one that all items share once."""
    if operations is None:
        return None
    if all(operation is operations[0] for operation in operations):
        return operations[0].decode()
    return [operation.decode() for operation in operations]
