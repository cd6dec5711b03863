"""Internal API between workers: parts of batches, state of a worker, draining.

Paths under ``/internal/``; nginx lets no client through to them. They are no part of the API.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Protocol, TypeVar

from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.engine.batches import Batches
from verl_agent_env.engine.budget import AnswerRoom
from verl_agent_env.errors import MovedError, VerlAgentEnvError
from verl_agent_env.server.api.create_requests import create_requests
from verl_agent_env.server.cluster.peers import WORKER_PATH
from verl_agent_env.server.cluster.sharded_batches import INTERNAL_PREFIX
from verl_agent_env.server.http.headers import ANSWER_SHARE_HEADER
from verl_agent_env.server.http.types import Request, Response, Route
from verl_agent_env.spans import note
from verl_agent_env.types import slot_of
from verl_agent_env.wire.codec import decode
from verl_agent_env.wire.large_bodies import decode_batch
from verl_agent_env.wire.parts import (
    MEDIA_TYPE,
    encode_closed_part,
    encode_created_part,
    encode_reset_part,
    encode_run_part,
    encode_step_part,
)
from verl_agent_env.wire.schemas import (
    BatchCloseRequest,
    InternalCloseRunRequest,
    InternalDrainRequest,
    InternalInitializeRequest,
    InternalResetRequest,
    InternalStepRequest,
)

T = TypeVar("T")

DRAIN_PATH = "/internal/drain"


class SelfInCluster(Protocol):
    """Control of a worker's membership in the cluster."""

    def record(self) -> WorkerRecord:
        """Return the worker's own record."""

    async def drain(self) -> None:
        """Take no new environments, and give those that there are to others."""

    async def undrain(self) -> None:
        """Take environments again."""


class InternalHandlers:
    """A worker's part of the batches that other workers were asked for; an item of a slot that is not its own moved."""

    def __init__(self, batches: Batches, table: SlotTable, self_in_cluster: SelfInCluster) -> None:
        """Calls on this worker only.

        Args:
            batches: The worker's own.
            table: Which slots are its own.
            self_in_cluster: The worker's part in the cluster.
        """
        self._batches = batches
        self._table = table
        self._self = self_in_cluster

    def routes(self) -> list[Route]:
        """The calls."""
        return [
            _part("POST", f"{INTERNAL_PREFIX}initialize", self.initialize, "A part of batch/initialize"),
            _part("POST", f"{INTERNAL_PREFIX}reset", self.reset, "A part of batch/reset"),
            _part("POST", f"{INTERNAL_PREFIX}step", self.step, "A part of batch/step"),
            _part("POST", f"{INTERNAL_PREFIX}close", self.close, "A part of batch/close"),
            _part("POST", f"{INTERNAL_PREFIX}close-run", self.close_run, "A part of the end of a run"),
            Route("GET", WORKER_PATH, self.worker, "How the worker is doing", auth_scope="admin"),
            Route(
                "POST", DRAIN_PATH, self.drain, "Give all environments to other workers", auth_scope="admin"
            ),
        ]

    async def initialize(self, request: Request) -> Response:
        """Make environments here."""
        wanted = await decode_batch(request.body, InternalInitializeRequest, self._batches.turn)
        mine, foreign = self._sort(wanted.env_ids)
        requests = [
            dataclasses.replace(request, env_id=env_id)
            for request, env_id in zip(
                await create_requests(wanted, self._batches.turn), wanted.env_ids, strict=True
            )
        ]
        results = await self._batches.create(_pick(requests, mine), _room_of(request))
        return _reply(encode_created_part(_merge(mine, results, foreign)))

    async def reset(self, request: Request) -> Response:
        """Reset those environments that live here."""
        wanted = await decode_batch(request.body, InternalResetRequest, self._batches.turn)
        mine, foreign = self._sort(wanted.env_ids)
        options = (
            wanted.options if isinstance(wanted.options, list) else [wanted.options] * len(wanted.env_ids)
        )
        results = await self._batches.reset(
            _pick(wanted.env_ids, mine),
            wanted.seeds and _pick(wanted.seeds, mine),
            _pick(options, mine),
            _encoded(wanted.operations, mine),
            _room_of(request),
        )
        return _reply(encode_reset_part(_merge(mine, results, foreign)))

    async def step(self, request: Request) -> Response:
        """Step those environments that live here."""
        wanted = await decode_batch(request.body, InternalStepRequest, self._batches.turn)
        mine, foreign = self._sort(wanted.env_ids)
        results = await self._batches.step(
            _pick(wanted.env_ids, mine),
            _pick(wanted.actions, mine),
            wanted.seqs and _pick(wanted.seqs, mine),
            _encoded(wanted.operations, mine),
            _room_of(request),
        )
        return _reply(encode_step_part(_merge(mine, results, foreign)))

    async def close(self, request: Request) -> Response:
        """Close those environments that live here."""
        wanted = await decode_batch(request.body, BatchCloseRequest, self._batches.turn)
        env_ids = wanted.env_ids or []
        mine, foreign = self._sort(env_ids)
        done = await self._batches.close(_pick(env_ids, mine))
        errors = [(mine[index], error) for index, error in done.errors]
        return _reply(
            encode_closed_part(len(env_ids), sorted([*errors, *foreign.items()], key=lambda e: e[0]))
        )

    async def close_run(self, request: Request) -> Response:
        """Close those environments of a run that live here."""
        wanted = decode(request.body, InternalCloseRunRequest)
        closed, slots = await self._batches.close_run_of_slots(wanted.run_id, wanted.tag)
        return _reply(encode_run_part(closed, [slot for slot in slots if self._table.owns(slot)]))

    async def worker(self, request: Request) -> Response:
        """Answer with the worker's own record."""
        return Response(self._self.record().to_json())

    async def drain(self, request: Request) -> Response:
        """Give all environments to other workers, or take some again."""
        if decode(request.body, InternalDrainRequest).undo:
            await self._self.undrain()
        else:
            await self._self.drain()
        return Response(self._self.record().to_json())

    def _sort(self, env_ids: Sequence[str]) -> tuple[list[int], dict[int, VerlAgentEnvError]]:
        """Positions of the environments whose slots are this worker's own, and the error of each other one."""
        note("batch_size", len(env_ids))
        mine: list[int] = []
        foreign: dict[int, VerlAgentEnvError] = {}
        owned: dict[int, bool] = {}
        for position, env_id in enumerate(env_ids):
            slot = slot_of(env_id)
            if slot not in owned:
                owned[slot] = self._table.owns(slot)
            if owned[slot]:
                mine.append(position)
            else:
                foreign[position] = MovedError(slot)
        return mine, foreign


# Whose the environments of a part are was looked at by the worker that was asked for the batch.
_part = partial(Route, auth_scope="admin", is_part=True, is_long=True)


def _merge(
    positions: list[int], results: Sequence[T | VerlAgentEnvError], foreign: dict[int, VerlAgentEnvError]
) -> Sequence[T | VerlAgentEnvError]:
    if not foreign:
        return results
    merged: dict[int, T | VerlAgentEnvError] = {**foreign}
    merged.update(zip(positions, results, strict=True))
    return [merged[position] for position in range(len(merged))]


def _pick(values: Sequence[T], positions: list[int]) -> Sequence[T]:
    return values if len(positions) == len(values) else [values[position] for position in positions]


def _room_of(request: Request) -> AnswerRoom:
    """Return the bound on the answers of a part: a batch on many workers has that of a batch on one."""
    with contextlib.suppress(ValueError):
        share = float(request.headers.get(ANSWER_SHARE_HEADER, b"1"))
        if 0.0 < share <= 1.0:
            return AnswerRoom(request.memory, share)
    return AnswerRoom(request.memory)


def _reply(part: bytes) -> Response:
    return Response(part, MEDIA_TYPE)


def _encoded(operations: str | Sequence[str] | None, positions: Sequence[int]) -> list[bytes] | None:
    if isinstance(operations, str):
        # The same object for all: instances keep it.
        return [operations.encode()] * len(positions)
    return None if operations is None else [operations[position].encode() for position in positions]
