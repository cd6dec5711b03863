"""Calls on many environments: in order, inline ones at once, the others side by side, each failing alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from verl_agent_env.engine.host import CreateRequest, Host
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

T = TypeVar("T")

_ITEMS_BETWEEN_LOOKS = 32
"""A look at the clock costs less than a step, but not nothing."""
_ITEMS_BETWEEN_YIELDS = 1024


async def create_many(
    host: Host, requests: Sequence[CreateRequest]
) -> list[tuple[str, ResetAnswer] | VerlAgentEnvError]:
    """Make an environment for each request; results in order, an error in place of what failed."""
    return await _for_each(
        host, len(requests), lambda i: host.create_now(requests[i]), lambda i: host.create(requests[i])
    )


async def reset_many(
    host: Host,
    env_ids: Sequence[str],
    seeds: Sequence[int | None] | None,
    options: Sequence[dict[str, Any] | None] | None,
) -> list[ResetAnswer | VerlAgentEnvError]:
    """Reset each environment; results in order, an error in place of what failed."""

    def arguments(i: int) -> tuple[str, int | None, dict[str, Any] | None]:
        return env_ids[i], seeds[i] if seeds else None, options[i] if options else None

    return await _for_each(
        host, len(env_ids), lambda i: host.reset_now(*arguments(i)), lambda i: host.reset(*arguments(i))
    )


async def step_many(
    host: Host, env_ids: Sequence[str], actions: Sequence[Any], seqs: Sequence[int | None] | None
) -> list[StepAnswer | VerlAgentEnvError]:
    """Step each environment; results in order, an error in place of what failed.

    An environment that stands in ``env_ids`` several times takes its actions in their order.
    """
    numbers = seqs if seqs is not None else [None] * len(env_ids)
    return await _for_each(
        host,
        len(env_ids),
        lambda i: host.step_now(env_ids[i], actions[i], numbers[i]),
        lambda i: host.step(env_ids[i], actions[i], numbers[i]),
    )


async def close_many(host: Host, env_ids: Sequence[str]) -> tuple[int, list[tuple[int, VerlAgentEnvError]]]:
    """Close each environment.

    Returns:
        How many are closed now, and the positions that failed.
    """
    errors: list[tuple[int, VerlAgentEnvError]] = []
    for i, env_id in enumerate(env_ids):
        try:
            host.close(env_id)
        except VerlAgentEnvError as error:
            errors.append((i, error))
        if i % _ITEMS_BETWEEN_YIELDS == 0:
            await asyncio.sleep(0)
    return len(env_ids) - len(errors), errors


async def _for_each(
    host: Host, count: int, run_now: Callable[[int], T | None], run: Callable[[int], Awaitable[T]]
) -> list[T | VerlAgentEnvError]:
    """``run_now`` on each position in turn, then ``run`` on all those together for which that gave ``None``."""
    results: list[T | VerlAgentEnvError | None] = [None] * count
    slice_end = time.perf_counter() + host.limits.yield_after_s
    for i in range(count):
        try:
            results[i] = run_now(i)
        except VerlAgentEnvError as error:
            results[i] = error
        if i % _ITEMS_BETWEEN_LOOKS == 0 and time.perf_counter() > slice_end:
            # Let single requests through while a large batch is at work.
            await asyncio.sleep(0)
            slice_end = time.perf_counter() + host.limits.yield_after_s
    apart = [i for i, result in enumerate(results) if result is None]
    outcomes = await asyncio.gather(*(run(i) for i in apart), return_exceptions=True)
    for i, outcome in zip(apart, outcomes, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, VerlAgentEnvError):
            raise outcome
        results[i] = outcome
    return [result for result in results if result is not None]
