"""Environments that behave badly, and clients that send too much."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from loadtests import bad_env
from loadtests.chaos.episode import Say
from loadtests.chaos.load import Load
from loadtests.chaos.node_faults import kill_worker
from verl_agent_env.cluster.local import LocalCluster

_MISBEHAVE_S = 35.0
_MISBEHAVE_EVERY_S = 0.5
_NEIGHBOURS = 4
_POISONED = 520
_POISONED_STEPS = 40
_POISON = "x" * 60_000
_HEALED_WITHIN_S = 10.0


async def misbehave(_: LocalCluster, load: Load) -> None:
    """Environments that block for thirty seconds, raise, and leak, beside the others."""
    made = await load.client.call(
        "/api/batch/initialize", {"env_name": bad_env.ENV_NAME, "num_envs": 3 * _NEIGHBOURS}
    )
    if made["errors"]:
        raise RuntimeError(str(made["errors"][0]))
    end = time.perf_counter() + _MISBEHAVE_S

    async def one(env_id: str, action: str) -> None:
        while time.perf_counter() < end:
            await load.client.call(f"/api/environment/{env_id}/step", {"action": action}, is_patient=False)
            await asyncio.sleep(_MISBEHAVE_EVERY_S)

    actions = ["block", "raise", "leak"] * _NEIGHBOURS
    await asyncio.gather(*map(one, made["env_ids"], actions))
    await load.client.call("/api/batch/close", {"env_ids": made["env_ids"]})


async def poison(cluster: LocalCluster, load: Load) -> None:
    """Environments with long histories of large actions, of which a worker's share must be brought back."""
    async with load.beside(
        _POISONED,
        max_stall_s=_HEALED_WITHIN_S,
        think_s=1.0,
        singles=0,
        batches=8,
        sample=_POISONED // 8,
        say=LARGE,
    ) as poisoned:
        await poisoned.rounds(_POISONED_STEPS)
        await kill_worker(cluster, load)
        began = time.perf_counter()
        await poisoned.rounds(1)
        healed_s = time.perf_counter() - began
    if healed_s > _HEALED_WITHIN_S:
        load.ledger.broken.append(f"healed after {healed_s:.1f} s")


def _with_thoughts(move: str) -> str:
    return f"{_POISON}<answer>{move}</answer>"


def _with_arguments(move: str) -> dict[str, Any]:
    function = {"name": f"move_{move}", "arguments": f'{{"why": "{_POISON}"}}'}
    call = {"id": "call", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _without_a_move(_: str) -> str:
    return _POISON


LARGE: tuple[Say, ...] = (_with_thoughts, _with_arguments, _without_a_move)
"""Ways to send a move with a lot beside it, or a lot in place of it."""
