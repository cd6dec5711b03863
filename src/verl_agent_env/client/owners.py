"""A guess at the worker that owns an environment, so that calls on it can be sent there directly.

A wrong guess only costs a hop within the cluster, because any worker accepts any call. The guess is the consistent hash
of nginx and the workers, over the workers that are ready and reachable from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from verl_agent_env.cluster.ring import Ring
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.types import NUM_SLOTS, slot_of

_MAP_AGE_S = 10.0
"""Age of the map in seconds at which it is fetched again in the background."""
_AVOIDED_S = 5.0
"""Seconds for which a worker that did not answer gets no direct calls."""
_PROBE_AGAIN_S = 60.0
"""Seconds after which a worker that could not be reached is probed again: it, or this process, may have been busy."""


class Owners:
    """Owners of slots; unknown until the map has been fetched."""

    def __init__(
        self,
        fetch_map: Callable[[str | None], Awaitable[dict[str, Any]]],
        scheme: str = "http",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty map.

        Args:
            fetch_map: Returns the response of ``GET /api/cluster``, at the server's or at a worker's own URL.
            scheme: Scheme of the server's URL, and of the workers': a token that is sent over TLS is never sent without.
            clock: Seconds.
        """
        self._clock = clock
        self._scheme = scheme
        self._fetch_map = fetch_map
        self._urls: list[str | None] = []
        """By slot; empty while all calls go to the server's own URL."""
        self._fetched_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._probed: dict[str, float] = {}
        """Incarnations that were probed at their addresses: when to do so again, infinity for those that answered."""
        self._avoided: dict[str, float] = {}

    def url_for(self, env_id: str) -> str | None:
        """Return the URL of the worker that owns ``env_id``; None if it is unknown or cannot be reached from here."""
        if self._clock() - self._fetched_at > _MAP_AGE_S:
            self._refresh()
        slot, urls = slot_of(env_id), self._urls
        url = urls[slot] if slot < len(urls) else None
        if url is not None and self._avoided and self._avoided.get(url, 0.0) > self._clock():
            return None
        return url

    def avoid(self, url: str) -> None:
        """Send a worker no direct calls for a while, because it did not answer as an owner, and fetch the map again."""
        self._avoided[url] = self._clock() + _AVOIDED_S
        self._refresh()

    async def settle(self) -> None:
        """Wait for the map that is being fetched, if one is."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Stop fetching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _refresh(self) -> None:
        if self._task is None or self._task.done():
            self._fetched_at = self._clock()
            self._task = asyncio.get_running_loop().create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            found = await self._fetch_map(None)
            nodes, num_slots = found["nodes"], int(found.get("num_slots", NUM_SLOTS))
            workers = [worker for node in nodes for worker in node["workers"] if worker["state"] == "ready"]
            known = {str(worker["address"]): str(worker["incarnation"]) for worker in workers}
        except (VerlAgentEnvError, KeyError, TypeError):
            return
        if len(known) < 2:
            # The server's own URL leads to a single worker anyway.
            self._urls = []
            return
        now = self._clock()
        await asyncio.gather(
            *(
                self._probe(address, mark)
                for address, mark in known.items()
                if self._probed.get(mark, now) <= now
            )
        )
        self._probed = {mark: self._probed[mark] for mark in known.values()}
        urls = {
            address: f"{self._scheme}://{address}" if self._probed[mark] == math.inf else None
            for address, mark in known.items()
        }
        self._urls = [urls[address] for address in Ring(sorted(known), num_slots).assignments]

    async def _probe(self, address: str, incarnation: str) -> None:
        """Check that the worker itself answers at its address."""
        is_there = False
        with contextlib.suppress(VerlAgentEnvError, KeyError, TypeError):
            seen = await self._fetch_map(f"{self._scheme}://{address}")
            is_there = incarnation in {
                worker["incarnation"] for node in seen["nodes"] for worker in node["workers"]
            }
        self._probed[incarnation] = math.inf if is_there else self._clock() + _PROBE_AGAIN_S
