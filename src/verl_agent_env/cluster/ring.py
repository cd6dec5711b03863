"""The consistent hash of nginx, in Python: which upstream ``hash $slot consistent`` picks for a slot.

nginx and the workers have to agree on nothing but the addresses. Where they do, the first hop of a request ends at the
worker that owns its slot. The ring only proposes; the store decides.

The hash is ketama as nginx builds it (``ngx_http_upstream_hash_module``): 160 points for a server of weight 1, each
the crc32 of ``host ‖ 0x00 ‖ port ‖ previous point`` (4 bytes, little endian, from 0). A slot goes to the first point
at or after the crc32 of its text, three hex digits, and wraps around. Host and port are the text in the
configuration, not what a name resolves to.

A dead upstream is passed over to the next point, which is the same as a ring without it. nginx gives up after
:data:`MAX_SKIPS` points and takes any upstream that is alive; such a request is forwarded once more.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from verl_agent_env.types import NUM_SLOTS

POINTS_PER_SERVER = 160
"""Points of a server of weight 1, as in nginx."""
MAX_SKIPS = 20
"""Points of dead upstreams that nginx passes over before it takes any live one."""


class Balance(NamedTuple):
    """How evenly slots lie on workers, as shares of the mean."""

    fullest: float
    emptiest: float


class Ring:
    """A consistent hash of all slots over ``addresses`` (``host:port``, each once)."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(addresses)
        repeated = [address for address, count in Counter(self.addresses).items() if count > 1]
        if repeated:
            raise ValueError(f"the ring has '{repeated[0]}' more than once")
        hashes = np.concatenate([_points_of(address) for address in self.addresses] or [_NO_POINTS])
        servers = np.repeat(np.arange(len(self.addresses)), POINTS_PER_SERVER)
        # Of points that fall together nginx keeps one; `unique` keeps the first, in order of declaration.
        self._hashes, first = np.unique(hashes, return_index=True)
        self._servers = servers[first]

    @functools.cached_property
    def assignments(self) -> tuple[str, ...]:
        """The address of each slot while all are alive."""
        return self.assignment(None)

    def owner(self, slot: int) -> str:
        """The address that ``slot`` goes to while all are alive."""
        return self.assignments[slot]

    def assignment(self, alive: Collection[str] | None = None) -> tuple[str, ...]:
        """The address of each slot, by slot, while only those in ``alive`` answer (all of them for None).

        Raises:
            ValueError: None of the ring's addresses is alive.
        """
        hashes, servers = self._hashes, self._servers
        if alive is not None:
            kept = self._is_alive(alive)[servers]
            hashes, servers = hashes[kept], servers[kept]
        if not len(hashes):
            raise ValueError("no address of the ring is alive")
        found = np.searchsorted(hashes, _slot_hashes()) % len(hashes)
        return tuple(self.addresses[server] for server in servers[found].tolist())

    def most_skips(self, alive: Collection[str]) -> int:
        """Points of dead upstreams that the worst slot passes over; nginx follows up to :data:`MAX_SKIPS`.

        Raises:
            ValueError: None of the ring's addresses is alive.
        """
        (live,) = np.nonzero(self._is_alive(alive)[self._servers])
        if not len(live):
            raise ValueError("no address of the ring is alive")
        total = len(self._hashes)
        found = np.searchsorted(self._hashes, _slot_hashes()) % total
        onwards = live[np.searchsorted(live, found) % len(live)]
        return int(np.max((onwards - found) % total))

    def _is_alive(self, alive: Collection[str]) -> npt.NDArray[np.bool_]:
        return np.array([address in alive for address in self.addresses], dtype=np.bool_)


@functools.lru_cache(maxsize=64)
def ring_over(addresses: tuple[str, ...]) -> Ring:
    """A ring that is kept for whoever asks for these addresses again."""
    return Ring(addresses)


def balance(assignment: Sequence[str], workers: int) -> Balance:
    """The largest and the smallest load among ``workers``, some of which may have no slot."""
    counts = Counter(assignment)
    mean = len(assignment) / workers
    emptiest = min(counts.values()) if len(counts) == workers else 0
    return Balance(max(counts.values()) / mean, emptiest / mean)


def moved(before: Sequence[str], after: Sequence[str]) -> int:
    """How many slots have another address."""
    return sum(old != new for old, new in zip(before, after, strict=True))


_NO_POINTS: npt.NDArray[np.uint32] = np.empty(0, dtype=np.uint32)


@functools.lru_cache(maxsize=4096)
def _points_of(address: str) -> npt.NDArray[np.uint32]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"'{address}' is no address: write host:port")
    base = zlib.crc32(f"{host}\0{port}".encode())
    points = np.empty(POINTS_PER_SERVER, dtype=np.uint32)
    previous = 0
    for index in range(POINTS_PER_SERVER):
        previous = zlib.crc32(previous.to_bytes(4, "little"), base)
        points[index] = previous
    return points


@functools.cache
def _slot_hashes() -> npt.NDArray[np.uint32]:
    return np.array([zlib.crc32(f"{slot:03x}".encode()) for slot in range(NUM_SLOTS)], dtype=np.uint32)
