"""What nginx does with dead upstreams, point by point, to hold against a ring without them."""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Collection

from verl_agent_env.cluster.ring import Ring
from verl_agent_env.types import NUM_SLOTS

MAX_SKIPS = 20
"""Points of dead upstreams that nginx passes over before it takes any live one."""


def passed_over(ring: Ring, alive: Collection[str]) -> tuple[list[str], int]:
    """Go from each slot's point to the next one of a live address.

    Returns:
        The address of each slot, and how many points the worst slot passes over.
    """
    hashes = [int(point) for point in ring._hashes]
    addresses = [ring.addresses[server] for server in ring._servers]
    picked, most = [], 0
    for slot in range(NUM_SLOTS):
        slot_hash = zlib.crc32(f"{slot:03x}".encode())
        first = bisect.bisect_left(hashes, slot_hash)
        skips = next(n for n in range(len(hashes)) if addresses[(first + n) % len(hashes)] in alive)
        picked.append(addresses[(first + skips) % len(hashes)])
        most = max(most, skips)
    return picked, most
