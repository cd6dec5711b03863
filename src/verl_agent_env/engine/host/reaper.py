"""Looks for idle environments, often enough that each is closed within 1.25 of its ttl."""

from __future__ import annotations

import asyncio
import logging

from verl_agent_env.engine.host.host import Host

logger = logging.getLogger(__name__)

MAX_PAUSE_S = 30.0
_PAUSES_PER_TTL = 8
"""One more than it takes: a look may come late on a busy server."""
_PAUSE_PER_WORK = 9.0
"""Looking takes at most a tenth of the time, whatever ttl a client asks for."""


async def reap_forever(host: Host) -> None:
    """Close idle environments until cancelled."""
    took_s = 0.0
    clock = asyncio.get_running_loop().time
    while True:
        await _pause(host, took_s * _PAUSE_PER_WORK)
        started = clock()
        reaped = 0
        try:
            reaped = await host.reap()
        except Exception:
            # One environment's failure must not keep all others alive.
            logger.exception("closing idle environments failed")
        took_s = clock() - started
        if reaped:
            logger.info("idle environments closed", extra={"count": reaped})


async def _pause(host: Host, at_least_s: float) -> None:
    """Sleep until the next look is due, which an environment with a shorter ttl brings forward."""
    started = asyncio.get_running_loop().time()
    changed = host.env_table.shorter_ttl
    while True:
        changed.clear()
        pause_s = max(at_least_s, min(MAX_PAUSE_S, host.env_table.shortest_ttl_s / _PAUSES_PER_TTL))
        try:
            async with asyncio.timeout_at(started + pause_s):
                await changed.wait()
        except TimeoutError:
            return
