"""Handlers of the calls on many environments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

from verl_agent_env.config import HttpLimits
from verl_agent_env.engine import CreateRequest
from verl_agent_env.engine.batches import Closed
from verl_agent_env.engine.budget import WHOLE_ROOM, AnswerRoom
from verl_agent_env.engine.kinds import KindLoader
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    BatchTooLargeError,
    EnvironmentNotFoundError,
    RequestError,
    VerlAgentEnvError,
)
from verl_agent_env.server.api.create_requests import create_requests, fault_of
from verl_agent_env.server.http.headers import OPERATION_HEADER
from verl_agent_env.server.http.idempotency import IdempotentRequests, Named
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.tokens import Principal
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.spans import note
from verl_agent_env.wire.batches import encode_closed, encode_initialized, encode_resets, encode_steps
from verl_agent_env.wire.large_bodies import Turn, decode_batch
from verl_agent_env.wire.operations import call_of, operations_of, steps_of
from verl_agent_env.wire.pieces import Body
from verl_agent_env.wire.results import EncodedReset, EncodedStep
from verl_agent_env.wire.schemas import (
    BatchCloseRequest,
    BatchInitializeRequest,
    BatchResetRequest,
    BatchStepRequest,
)

T = TypeVar("T")


class BatchWork(Protocol):
    """Executor of batches: the host of this worker, or many workers."""

    async def create(
        self, requests: Sequence[CreateRequest], room: AnswerRoom = WHOLE_ROOM
    ) -> list[tuple[str, EncodedReset] | VerlAgentEnvError]:
        """Make an environment for each request."""

    async def reset(
        self,
        env_ids: Sequence[str],
        seeds: Sequence[int | None] | None,
        options: Sequence[dict[str, Any] | None] | None,
        operations: Sequence[bytes] | None = None,
        room: AnswerRoom = WHOLE_ROOM,
    ) -> list[EncodedReset | VerlAgentEnvError]:
        """Reset each environment."""

    async def step(
        self,
        env_ids: Sequence[str],
        actions: Sequence[Any],
        seqs: Sequence[int | None] | None,
        operations: Sequence[bytes] | None = None,
        room: AnswerRoom = WHOLE_ROOM,
    ) -> list[EncodedStep | VerlAgentEnvError]:
        """Step each environment."""

    async def close(self, env_ids: Sequence[str]) -> Closed:
        """Close each environment."""

    async def close_run(self, run_id: str, tag: str | None = None) -> Closed:
        """Close all environments of a run; with a ``tag``, those of its holder."""


class BatchHandlers:
    """Calls on many environments at once; each item fails alone."""

    def __init__(
        self,
        batches: BatchWork,
        registry: Registry,
        kinds: KindLoader,
        idempotent: IdempotentRequests,
        metrics: Metrics,
        limits: HttpLimits,
        workers: Callable[[], Collection[str]],
        turn: Turn,
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
        """
        self._batches = batches
        self._registry = registry
        self._kinds = kinds
        self._idempotent = idempotent
        self._metrics = metrics
        self._limits = limits
        self._workers = workers
        self._turn = turn

    async def initialize(self, request: Request) -> Response:
        """Make many environments."""

        async def read() -> BatchInitializeRequest:
            wanted = await decode_batch(
                request.body, BatchInitializeRequest, self._turn, self._limits.max_batch_size
            )
            self._require_size(wanted.size)
            return wanted

        async def make(wanted: BatchInitializeRequest, named: Named) -> Body:
            fault = await self._common_fault(wanted)
            results: list[tuple[str, EncodedReset] | VerlAgentEnvError] = (
                await self._batches.create(
                    await named(await create_requests(wanted, self._turn, request.principal.tag)),
                    AnswerRoom(request.memory),
                )
                if fault is None
                else [fault] * wanted.size
            )
            self._count("initialize", results)
            return await encode_initialized.in_turns(results, self._turn)

        workers = self._workers()
        return Response(
            await self._idempotent.answer("batch/initialize", request, read, make, workers=workers)
        )

    async def reset(self, request: Request) -> Response:
        """Begin another episode in many environments."""
        wanted = await decode_batch(request.body, BatchResetRequest, self._turn, self._limits.max_batch_size)
        self._require_size(len(wanted.env_ids))
        options = wanted.options
        if options is not None and not isinstance(options, list):
            options = [options] * len(wanted.env_ids)
        operation = call_of(request.headers.get(OPERATION_HEADER))
        operations = operations_of(operation, wanted.env_ids) if operation else None
        columns = (wanted.seeds, options, operations)
        results = await _of_own(request, self._batches.reset, wanted.env_ids, *columns)
        self._count("reset", results)
        return Response(await encode_resets.in_turns(results, self._turn))

    async def step(self, request: Request) -> Response:
        """Carry out one action in each of many environments."""
        wanted = await decode_batch(request.body, BatchStepRequest, self._turn, self._limits.max_batch_size)
        self._require_size(len(wanted.env_ids))
        operation = call_of(request.headers.get(OPERATION_HEADER))
        operations = steps_of(operation, wanted.env_ids, wanted.seqs) if operation else None
        columns = (wanted.actions, wanted.seqs, operations)
        results = await _of_own(request, self._batches.step, wanted.env_ids, *columns)
        self._count("step", results)
        return Response(await encode_steps.in_turns(results, self._turn))

    async def close(self, request: Request) -> Response:
        """Close many environments."""
        wanted = await decode_batch(request.body, BatchCloseRequest, self._turn, self._limits.max_batch_size)
        if wanted.run_id is not None:
            # As many as the run has: the bound on a batch is on what a client sends.
            closed, errors = await self._batches.close_run(wanted.run_id, request.principal.run_tag)
        else:
            env_ids = wanted.env_ids or []
            self._require_size(len(env_ids))
            closed, errors = await self._close(request.principal, env_ids)
        note("batch_size", closed + len(errors))
        self._metrics.observe_batch("close", closed + len(errors), [error.code for _, error in errors])
        return Response(encode_closed(closed, errors))

    async def _close(self, principal: Principal, env_ids: Sequence[str]) -> Closed:
        own = principal.positions_of_own(env_ids)
        if own is None:
            return await self._batches.close(env_ids)
        done = await self._batches.close([env_ids[position] for position in own])
        failed = {own[index]: error for index, error in done.errors}
        for position in set(range(len(env_ids))).difference(own):
            failed[position] = EnvironmentNotFoundError(env_ids[position])
        return Closed(done.closed, sorted(failed.items(), key=lambda item: item[0]))

    def _require_size(self, size: int) -> None:
        if size > self._limits.max_batch_size:
            raise BatchTooLargeError(size, self._limits.max_batch_size)

    async def _common_fault(self, wanted: BatchInitializeRequest) -> RequestError | None:
        """Check the name and the arguments that all items share, once; return the error, if any."""
        if wanted.env_name is None or isinstance(wanted.env_kwargs, list):
            return None
        await self._kinds.load((wanted.env_name,))
        return fault_of(self._registry, wanted.env_name, wanted.env_kwargs or {})

    def _count(self, route: str, results: Sequence[Any]) -> None:
        note("batch_size", len(results))
        codes = [result.code for result in results if isinstance(result, VerlAgentEnvError)]
        self._metrics.observe_batch(route, len(results), codes)


async def _of_own(
    request: Request,
    work: Callable[..., Awaitable[list[T | VerlAgentEnvError]]],
    env_ids: Sequence[str],
    *columns: Sequence[Any] | None,
) -> list[T | VerlAgentEnvError]:
    """Results in order of position; of another holder's environments, that there are none.

    Args:
        request: Whose environments are meant.
        work: Carries it out.
        env_ids: The environments.
        columns: What else the work takes, for each environment; None for nothing.
    """
    own, room = request.principal.positions_of_own(env_ids), AnswerRoom(request.memory)
    if own is None:
        return await work(env_ids, *columns, room)
    results: list[T | VerlAgentEnvError] = [EnvironmentNotFoundError(env_id) for env_id in env_ids]
    picked = [column and [column[position] for position in own] for column in (env_ids, *columns)]
    for position, result in zip(own, await work(*picked, room), strict=True):
        results[position] = result
    return results
