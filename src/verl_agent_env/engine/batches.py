"""Calls on many environments: in order, inline ones at once, the others side by side, each failing alone."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from verl_agent_env.engine.host import Host
from verl_agent_env.engine.journal import Group
from verl_agent_env.engine.lives import CreateRequest
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    InternalError,
    MovedError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.types import slot_of
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ITEMS_BETWEEN_YIELDS = 1024


class Closed(NamedTuple):
    """What a batch of closings came to."""

    closed: int
    """How many are closed now."""
    errors: list[tuple[int, VerlAgentEnvError]]
    """The positions that failed."""


class Batches:
    """The batch calls on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def create(
        self, requests: Sequence[CreateRequest]
    ) -> list[tuple[str, ResetAnswer] | VerlAgentEnvError]:
        """Make an environment for each request; results in order, an error in place of what failed."""
        host = self._host
        named = [request.env_id for request in requests if request.env_id is not None]
        writes = _Writes(host, await host.ensure(named))
        results = await _for_each(host, zip(requests, strict=True), host.create_now, host.create, writes)
        env_ids = [result[0] if isinstance(result, tuple) else "" for result in results]
        return _with_refusals(env_ids, results, await writes.settle())

    async def reset(
        self,
        env_ids: Sequence[str],
        seeds: Sequence[int | None] | None,
        options: Sequence[dict[str, Any] | None] | None,
        operations: Sequence[bytes] | None = None,
    ) -> list[ResetAnswer | VerlAgentEnvError]:
        """Reset each environment; results in order, an error in place of what failed."""
        host = self._host
        writes = _Writes(host, await host.ensure(env_ids))
        ids = itertools.repeat(b"", len(env_ids)) if operations is None else operations
        calls = zip(env_ids, _column(seeds, env_ids), _column(options, env_ids), ids, strict=True)
        results = await _for_each(host, calls, host.reset_now, host.reset, writes)
        return _with_refusals(env_ids, results, await writes.settle())

    async def step(
        self,
        env_ids: Sequence[str],
        actions: Sequence[Any],
        seqs: Sequence[int | None] | None,
        operations: Sequence[bytes] | None = None,
    ) -> list[StepAnswer | VerlAgentEnvError]:
        """Step each environment; results in order, an error in place of what failed.

        An environment that stands in ``env_ids`` several times takes its actions in their order.
        """
        host = self._host
        writes = _Writes(host, await host.ensure(env_ids))
        ids = itertools.repeat(b"", len(env_ids)) if operations is None else operations
        calls = zip(env_ids, actions, _column(seqs, env_ids), ids, strict=True)
        results = await _for_each(host, calls, host.step_now, host.step, writes)
        return _with_refusals(env_ids, results, await writes.settle())

    async def close(self, env_ids: Sequence[str]) -> Closed:
        """Close each environment."""
        writes = _Writes(self._host, await self._host.ensure(env_ids))
        errors: dict[int, VerlAgentEnvError] = {}
        for i, env_id in enumerate(env_ids):
            try:
                self._host.close_now(env_id)
            except VerlAgentEnvError as raised:
                errors[i] = self._host.as_owner(raised)
            if i % _ITEMS_BETWEEN_YIELDS == 0:
                writes.note()
                await asyncio.sleep(0)
        refused = await writes.settle()
        if refused is not None:
            for i, env_id in enumerate(env_ids):
                error = refused.instead_of(errors.get(i), env_id)
                if error is not None and not self._host.directory.was_closed(env_id):
                    errors[i] = error
        return Closed(len(env_ids) - len(errors), sorted(errors.items(), key=lambda item: item[0]))

    async def close_run(self, run_id: str) -> Closed:
        """Close all environments of a run, those of slots that came to this worker just now included.

        Raises:
            StoreUnavailableError: It cannot be read which there are.
        """
        if self._host.recovery is not None:
            await self._host.recovery.recover_all()
        return await self.close(self._host.directory.of_run(run_id))


class _Refusals(NamedTuple):
    """What could not be written."""

    by_env: Mapping[str, VerlAgentEnvError]
    of_all: VerlAgentEnvError | None
    """That the log did not answer."""
    unknown: Collection[str]
    """Environments that there certainly are not; any other that is not here has gone to another worker."""

    def of(self, env_id: str) -> VerlAgentEnvError | None:
        """The error of an environment, if it has one."""
        return self.by_env.get(env_id) or self.of_all

    def instead_of(self, result: Any, env_id: str) -> Any:
        """The result of an environment, or the error that takes its place."""
        if isinstance(result, EnvironmentNotFoundError):
            return result if env_id in self.unknown else MovedError(slot_of(env_id))
        return result if isinstance(result, VerlAgentEnvError) else self.of(env_id) or result


class _Writes:
    """What a batch has written: it is answered when all of that is in the log."""

    def __init__(self, host: Host, unknown: Collection[str] = ()) -> None:
        """Nothing is written yet.

        Args:
            host: Whose batch it is.
            unknown: Environments that there certainly are not.
        """
        self._unknown = unknown
        self._journal = None if host.recorder is None else host.recorder.journal
        self._groups: dict[Group, None] = {}
        self.note()

    def note(self) -> None:
        """Before others get their turn: what was written until now goes with the last group there is."""
        if self._journal is not None and self._journal.last is not None:
            self._groups[self._journal.last] = None

    async def settle(self) -> _Refusals | None:
        """Wait for all writes; gives what was refused, None where nothing is written."""
        if self._journal is None:
            return None
        self.note()
        by_env: dict[str, VerlAgentEnvError] = {}
        for group in self._groups:
            try:
                await group.wait()
            except StoreUnavailableError as away:
                return _Refusals(by_env, away, self._unknown)
            by_env |= group.errors
        return _Refusals(by_env, None, self._unknown)


def _with_refusals(env_ids: Sequence[str], results: list[Any], refused: _Refusals | None) -> list[Any]:
    """The results, an error in place of those whose writes were refused."""
    if refused is None:
        return results
    if not (refused.by_env or refused.of_all or refused.unknown) and not any(
        isinstance(result, VerlAgentEnvError) for result in results
    ):
        return results
    return [refused.instead_of(result, env_id) for env_id, result in zip(env_ids, results, strict=True)]


async def _for_each(
    host: Host,
    calls: Iterable[tuple[Any, ...]],
    run_now: Callable[..., T | None],
    run: Callable[..., Awaitable[T]],
    writes: _Writes,
) -> list[T | VerlAgentEnvError]:
    """``run_now`` with each tuple of arguments in turn, then ``run`` with all those together that gave ``None``."""
    results: list[Any] = []
    apart: list[tuple[int, tuple[Any, ...]]] = []
    clock, yield_after_s = time.perf_counter, host.limits.yield_after_s
    slice_end = clock() + yield_after_s
    for arguments in calls:
        try:
            result: Any = run_now(*arguments)
            if result is None:
                apart.append((len(results), arguments))
        except Exception as error:  # noqa: BLE001
            result = host.as_owner(_as_answer(error))
        results.append(result)
        if clock() > slice_end:
            # Let single requests through while a large batch is at work.
            writes.note()
            await asyncio.sleep(0)
            slice_end = clock() + yield_after_s
    if apart:
        outcomes = await asyncio.gather(*(run(*arguments) for _, arguments in apart), return_exceptions=True)
        for (position, _), outcome in zip(apart, outcomes, strict=True):
            results[position] = _as_answer(outcome) if isinstance(outcome, BaseException) else outcome
    return results


def _as_answer(error: BaseException) -> VerlAgentEnvError:
    """The error of one item; a defect of ours in one item leaves the others what they got."""
    if isinstance(error, VerlAgentEnvError):
        return error
    if not isinstance(error, Exception):
        raise error
    logger.error("batch item failed", exc_info=error)
    return InternalError()


def _column(values: Sequence[T] | None, env_ids: Sequence[str]) -> Iterable[T | None]:
    return itertools.repeat(None, len(env_ids)) if values is None else values
