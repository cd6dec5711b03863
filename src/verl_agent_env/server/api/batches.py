"""Handlers of the calls on many environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from verl_agent_env.config import HttpLimits
from verl_agent_env.engine import CreateRequest
from verl_agent_env.engine.execution.budget import AnswerRoom
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.engine.tasks import TaskFinder
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    BatchTooLargeError,
    EnvironmentNotFoundError,
    RequestError,
    VerlAgentEnvError,
)
from verl_agent_env.server.http.headers import OPERATION_HEADER
from verl_agent_env.server.http.idempotency import IdempotentRequests, Named
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.types import Handler, Request, Response
from verl_agent_env.server.verbs.create_requests import create_requests, fault_of
from verl_agent_env.server.verbs.values import CLOSE, INITIALIZE, new_environments
from verl_agent_env.server.verbs.verb import BatchRunner, EnvironmentVerb, Verb
from verl_agent_env.spans import note
from verl_agent_env.turns import Tenant, current_tenant
from verl_agent_env.wire.batches import encode_closed
from verl_agent_env.wire.item_faults import Faults, decode_items
from verl_agent_env.wire.large_bodies import Turn
from verl_agent_env.wire.operations import call_of
from verl_agent_env.wire.pieces import Body
from verl_agent_env.wire.results import Created
from verl_agent_env.wire.schemas import BatchCloseRequest, BatchInitializeRequest, RequestBody, TaskRequest

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=RequestBody)


class BatchHandlers:
    """Calls on many environments at once; each item fails alone."""

    def __init__(
        self,
        batches: BatchRunner,
        registry: Registry,
        kinds: KindLoader,
        idempotent: IdempotentRequests,
        metrics: Metrics,
        limits: HttpLimits,
        workers: Callable[[], Collection[str]],
        turn: Turn,
        tasks: TaskFinder,
    ) -> None:
        """Batch calls of one server.

        Args:
            batches: Carries them out.
            registry: The environments.
            kinds: Loads them.
            idempotent: Answers calls of one key once.
            metrics: Counts.
            limits: On a request.
            workers: Addresses of the workers that new environments are for.
            turn: Waits for the turn of a large batch.
            tasks: Finds the tasks that environments begin with.
        """
        self._batches = batches
        self._registry = registry
        self._kinds = kinds
        self._idempotent = idempotent
        self._metrics = metrics
        self._limits = limits
        self._workers = workers
        self._turn = turn
        self._tasks = tasks

    async def initialize(self, request: Request) -> Response:
        """Make many environments."""

        async def read() -> tuple[BatchInitializeRequest, Faults]:
            wanted, faults = await self._decode(BatchInitializeRequest, request)
            self._require_size(wanted.size)
            return wanted, faults

        async def make(asked: tuple[BatchInitializeRequest, Faults], named: Named) -> Body:
            wanted, faults = asked
            fault = await self._common_fault(wanted)
            if fault is not None:
                return await self._encode(INITIALIZE, [faults.get(i, fault) for i in range(wanted.size)])
            asked_for = await create_requests(wanted, self._turn, request.principal.tag)
            await self._kinds.load({one.env_name for one in asked_for})
            requests = await named(asked_for, self._batches.least_share(asked_for))
            valid = [position for position in range(wanted.size) if position not in faults]
            tasks = None if wanted.tasks is None else [wanted.tasks[position] for position in valid]
            made = await self._created(
                tasks, [requests[position] for position in valid], AnswerRoom(request.memory)
            )
            results: list[Any] = [faults.get(position) for position in range(wanted.size)]
            for position, result in zip(valid, made, strict=True):
                results[position] = result
            return await self._encode(INITIALIZE, results)

        workers = self._workers()
        return Response(
            await self._idempotent.answer("batch/initialize", request, read, make, workers=workers)
        )

    async def _created(
        self, named: Sequence[TaskRequest | None] | None, requests: Sequence[CreateRequest], room: AnswerRoom
    ) -> list[Created | VerlAgentEnvError]:
        """Make the environments, each with its task if it has one; results in order, an error in place of what failed."""
        if named is None:
            return await self._batches.run(INITIALIZE, new_environments(requests), room)
        tasks = [None if task is None else (task.split, task.index) for task in named]
        assigned = await self._tasks.assign(requests, tasks)
        found = [request for request in assigned if isinstance(request, CreateRequest)]
        results: list[Created | VerlAgentEnvError] = await self._batches.run(
            INITIALIZE, new_environments(found), room
        )
        made = iter(results)
        return [next(made) if isinstance(request, CreateRequest) else request for request in assigned]

    def handler(self, verb: EnvironmentVerb[Any]) -> Handler:
        """Make the handler of a verb."""

        async def handle(request: Request) -> Response:
            return await self._answer(verb, request, *await self._decode(verb.batch_request, request))

        return handle

    async def close(self, request: Request) -> Response:
        """Close many environments."""
        wanted, faults = await self._decode(BatchCloseRequest, request)
        if wanted.run_id is None:
            return await self._answer(CLOSE, request, wanted, faults)
        # As many as the run has: the bound on a batch is on what a client sends.
        closed, errors = await self._batches.close_run(wanted.run_id, request.principal.run_tag)
        note("batch_size", closed + len(errors))
        self._metrics.observe_batch(CLOSE.name, closed + len(errors), [error.code for _, error in errors])
        return Response(encode_closed(closed, errors))

    async def _decode(self, model: type[RequestT], request: Request) -> tuple[RequestT, Faults]:
        current_tenant.set(Tenant(request.principal.tag))
        return await decode_items(request.body, model, self._turn, self._limits.max_batch_size)

    async def _answer(
        self, verb: EnvironmentVerb[Any], request: Request, wanted: Any, faults: Faults
    ) -> Response:
        """Carry out a batch; of another holder's environments it is said that there are none."""
        items = await verb.items(wanted, self._turn)
        self._require_size(len(items))
        call = call_of(request.headers.get(OPERATION_HEADER))
        if call:
            items = dataclasses.replace(items, operations=verb.operations(call, items))
        own, room = request.principal.positions_of_own(items.env_ids), AnswerRoom(request.memory)
        if own is None and not faults:
            return Response(await self._encode(verb, await self._batches.run(verb, items, room)))
        results: list[Any] = [
            faults.get(position) or EnvironmentNotFoundError(env_id)
            for position, env_id in enumerate(items.env_ids)
        ]
        valid = [
            position for position in (range(len(items)) if own is None else own) if position not in faults
        ]
        for position, result in zip(valid, await self._batches.run(verb, items.at(valid), room), strict=True):
            results[position] = result
        return Response(await self._encode(verb, results))

    def _require_size(self, size: int) -> None:
        if size > self._limits.max_batch_size:
            raise BatchTooLargeError(size, self._limits.max_batch_size)

    async def _common_fault(self, wanted: BatchInitializeRequest) -> RequestError | None:
        """Check the name and the arguments that all items share, once; return the error, if any."""
        if wanted.env_name is None or isinstance(wanted.env_kwargs, list) or wanted.tasks is not None:
            # What a task adds to the arguments is not known yet.
            return None
        await self._kinds.load((wanted.env_name,))
        return fault_of(self._registry, wanted.env_name, wanted.env_kwargs or {})

    async def _encode(self, verb: Verb[T], results: Sequence[T | VerlAgentEnvError]) -> Body:
        note("batch_size", len(results))
        codes = [result.code for result in results if isinstance(result, VerlAgentEnvError)]
        self._metrics.observe_batch(verb.name, len(results), codes)
        return await verb.encode(results, self._turn)
