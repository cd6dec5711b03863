"""Batch calls on a host or on many workers, as plain functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_agent_env.engine import Created, CreateRequest, Host
from verl_agent_env.engine.host.batches import Batches, BatchItems, Closed
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.verbs.values import CLOSE, INITIALIZE, RESET, STEP, new_environments
from verl_agent_env.server.verbs.verb import BatchRunner
from verl_agent_env.wire.results import EncodedReset, EncodedStep

Runner = BatchRunner | Host


def _runner(runner: Runner) -> BatchRunner:
    return Batches(runner) if isinstance(runner, Host) else runner


async def create(runner: Runner, requests: Sequence[CreateRequest]) -> list[Created | VerlAgentEnvError]:
    """Make an environment for each request."""
    return await _runner(runner).run(INITIALIZE, new_environments(requests))


async def reset(
    runner: Runner,
    env_ids: Sequence[str],
    seeds: Sequence[int | None] | None,
    options: Sequence[dict[str, Any] | None] | None,
    operations: Sequence[bytes] | None = None,
) -> list[EncodedReset | VerlAgentEnvError]:
    """Reset each environment."""
    return await _runner(runner).run(RESET, BatchItems(env_ids, seeds, options, operations))


async def step(
    runner: Runner,
    env_ids: Sequence[str],
    actions: Sequence[Any],
    seqs: Sequence[int | None] | None,
    operations: Sequence[bytes] | None = None,
) -> list[EncodedStep | VerlAgentEnvError]:
    """Step each environment."""
    return await _runner(runner).run(STEP, BatchItems(env_ids, actions, seqs, operations))


async def close(runner: Runner, env_ids: Sequence[str]) -> Closed:
    """Close each environment."""
    results = await _runner(runner).run(CLOSE, BatchItems(env_ids))
    errors = [(position, error) for position, error in enumerate(results) if error is not None]
    return Closed(len(results) - len(errors), errors)
