"""Calls on many environments: in order, inline ones at once, the others side by side, each failing alone."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from verl_agent_env.engine.host import CreateRequest, Host
from verl_agent_env.errors import InternalError, VerlAgentEnvError
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
        return await _for_each(host, zip(requests, strict=True), host.create_now, host.create)

    async def reset(
        self,
        env_ids: Sequence[str],
        seeds: Sequence[int | None] | None,
        options: Sequence[dict[str, Any] | None] | None,
    ) -> list[ResetAnswer | VerlAgentEnvError]:
        """Reset each environment; results in order, an error in place of what failed."""
        calls = zip(env_ids, _column(seeds, env_ids), _column(options, env_ids), strict=True)
        return await _for_each(self._host, calls, self._host.reset_now, self._host.reset)

    async def step(
        self, env_ids: Sequence[str], actions: Sequence[Any], seqs: Sequence[int | None] | None
    ) -> list[StepAnswer | VerlAgentEnvError]:
        """Step each environment; results in order, an error in place of what failed.

        An environment that stands in ``env_ids`` several times takes its actions in their order.
        """
        calls = zip(env_ids, actions, _column(seqs, env_ids), strict=True)
        return await _for_each(self._host, calls, self._host.step_now, self._host.step)

    async def close(self, env_ids: Sequence[str]) -> Closed:
        """Close each environment."""
        errors: list[tuple[int, VerlAgentEnvError]] = []
        for i, env_id in enumerate(env_ids):
            try:
                self._host.close(env_id)
            except VerlAgentEnvError as error:
                errors.append((i, error))
            if i % _ITEMS_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
        return Closed(len(env_ids) - len(errors), errors)

    async def close_run(self, run_id: str) -> Closed:
        """Close all environments of a run."""
        return await self.close(self._host.directory.of_run(run_id))


async def _for_each(
    host: Host,
    calls: Iterable[tuple[Any, ...]],
    run_now: Callable[..., T | None],
    run: Callable[..., Awaitable[T]],
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
            result = _as_answer(error)
        results.append(result)
        if clock() > slice_end:
            # Let single requests through while a large batch is at work.
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
