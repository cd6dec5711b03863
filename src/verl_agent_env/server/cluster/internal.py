"""Internal API between workers: parts of batches, state of a worker, draining.

Paths under ``/internal/``; nginx lets no client through to them. They are no part of the API.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.engine.execution.budget import AnswerRoom
from verl_agent_env.engine.host.batches import Batches
from verl_agent_env.errors import MovedError, VerlAgentEnvError
from verl_agent_env.server.cluster.peers import WORKER_PATH
from verl_agent_env.server.cluster.sharded_batches import INTERNAL_PREFIX
from verl_agent_env.server.http.headers import ANSWER_SHARE_HEADER
from verl_agent_env.server.http.types import Handler, Request, Response, Route
from verl_agent_env.server.verbs.values import VERBS
from verl_agent_env.server.verbs.verb import Verb
from verl_agent_env.spans import note
from verl_agent_env.types import slot_of
from verl_agent_env.wire.codec import decode
from verl_agent_env.wire.parts import MEDIA_TYPE, encode_run_part
from verl_agent_env.wire.schemas import InternalCloseRunRequest, InternalDrainRequest

T = TypeVar("T")

DRAIN_PATH = "/internal/drain"


class WorkerControl(Protocol):
    """Control of a worker's membership in the cluster."""

    def record(self) -> WorkerRecord:
        """Return the worker's own record."""

    async def drain(self) -> None:
        """Take no new environments, and give those that there are to others."""

    async def undrain(self) -> None:
        """Take environments again."""


class InternalHandlers:
    """A worker's part of the batches that other workers were asked for; an item of a slot that is not its own moved."""

    def __init__(self, batches: Batches, table: SlotTable, control: WorkerControl) -> None:
        """Calls on this worker only.

        Args:
            batches: The worker's own.
            table: Which slots are its own.
            control: The worker's part in the cluster.
        """
        self._batches = batches
        self._table = table
        self._control = control

    def routes(self) -> list[Route]:
        """The calls."""
        return [
            *(
                _part("POST", INTERNAL_PREFIX + verb.name, self.part(verb), f"A part of batch/{verb.name}")
                for verb in VERBS
            ),
            _part("POST", f"{INTERNAL_PREFIX}close-run", self.close_run, "A part of the end of a run"),
            Route("GET", WORKER_PATH, self.worker, "How the worker is doing", auth_scope="admin"),
            Route(
                "POST", DRAIN_PATH, self.drain, "Give all environments to other workers", auth_scope="admin"
            ),
        ]

    def part(self, verb: Verb[Any]) -> Handler:
        """Make the handler of the parts of a verb's batches."""

        async def handle(request: Request) -> Response:
            items = await verb.read_part(request.body, self._batches.turn)
            mine, foreign = self._sort(items.env_ids)
            results = await self._batches.run(verb, items.at(mine), _room_of(request))
            return Response(verb.encode_part(_merge(mine, results, foreign)), MEDIA_TYPE)

        return handle

    async def close_run(self, request: Request) -> Response:
        """Close those environments of a run that live here."""
        wanted = decode(request.body, InternalCloseRunRequest)
        closed, slots = await self._batches.close_run_of_slots(wanted.run_id, wanted.tag)
        return Response(
            encode_run_part(closed, [slot for slot in slots if self._table.owns(slot)]), MEDIA_TYPE
        )

    async def worker(self, request: Request) -> Response:
        """Answer with the worker's own record."""
        return Response(self._control.record().to_json())

    async def drain(self, request: Request) -> Response:
        """Give all environments to other workers, or take some again."""
        if decode(request.body, InternalDrainRequest).undo:
            await self._control.undrain()
        else:
            await self._control.drain()
        return Response(self._control.record().to_json())

    def _sort(self, env_ids: Sequence[str]) -> tuple[Sequence[int], dict[int, VerlAgentEnvError]]:
        """Positions of the environments whose slots are this worker's own, and the error of each other one."""
        note("batch_size", len(env_ids))
        slots = [slot_of(env_id) for env_id in env_ids]
        gone = {slot for slot in set(slots) if not self._table.owns(slot)}
        if not gone:
            # Nearly always.
            return range(len(slots)), {}
        mine = [position for position, slot in enumerate(slots) if slot not in gone]
        return mine, {position: MovedError(slot) for position, slot in enumerate(slots) if slot in gone}


# Whose the environments of a part are was looked at by the worker that was asked for the batch.
_part = partial(Route, auth_scope="admin", is_part=True, is_long=True)


def _merge(
    positions: Sequence[int], results: Sequence[T | VerlAgentEnvError], foreign: dict[int, VerlAgentEnvError]
) -> Sequence[T | VerlAgentEnvError]:
    if not foreign:
        return results
    merged: dict[int, T | VerlAgentEnvError] = {**foreign}
    merged.update(zip(positions, results, strict=True))
    return [merged[position] for position in range(len(merged))]


def _room_of(request: Request) -> AnswerRoom:
    """Return the bound on the answers of a part: a batch on many workers has that of a batch on one."""
    with contextlib.suppress(ValueError):
        share = float(request.headers.get(ANSWER_SHARE_HEADER, b"1"))
        if 0.0 < share <= 1.0:
            return AnswerRoom(request.memory, share)
    return AnswerRoom(request.memory)
