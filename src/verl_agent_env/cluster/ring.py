"""The consistent hash of nginx in Python: the upstream that ``hash $slot consistent`` picks for each slot.

nginx and the workers need to agree only on the addresses. If they do, nginx sends a request directly to the worker that
owns its slot. The ring only proposes owners; the store decides.

The hash is ketama as nginx builds it (``ngx_http_upstream_hash_module``): 160 points for a server of weight 1, each
the crc32 of ``host ‖ 0x00 ‖ port ‖ previous point`` (4 bytes, little endian, from 0). A slot goes to the first point
at or after the crc32 of its text, three or four hex digits, and wraps around. Host and port are the text in the
configuration, not what a name resolves to.

nginx skips the points of dead upstreams, which gives the same result as a ring without them. After 20 skipped points it
takes any live upstream; the worker there forwards the request.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verl_agent_env.types import NUM_SLOTS, slot_text

POINTS_PER_SERVER = 160
"""Points of a server of weight 1, as in nginx."""


class Ring:
    """A consistent hash of ``num_slots`` slots over ``addresses`` (``host:port``, each once)."""

    def __init__(self, addresses: Sequence[str], num_slots: int = NUM_SLOTS) -> None:
        self.addresses = tuple(addresses)
        self._num_slots = num_slots
        repeated = [address for address, count in Counter(self.addresses).items() if count > 1]
        if repeated:
            raise ValueError(f"the ring has '{repeated[0]}' more than once")
        hashes = np.concatenate([_points_of(address) for address in self.addresses] or [_NO_POINTS])
        servers = np.repeat(np.arange(len(self.addresses)), POINTS_PER_SERVER)
        # Of equal points nginx keeps one; `unique` keeps the first, in order of declaration.
        self._hashes, first = np.unique(hashes, return_index=True)
        self._servers = servers[first]

    @functools.cached_property
    def choices(self) -> npt.NDArray[np.int64]:
        """Place of each slot's address in :attr:`addresses`, by slot.

        Raises:
            ValueError: The ring has no address.
        """
        if not self.addresses:
            raise ValueError("a ring without addresses has no owners")
        found = np.searchsorted(self._hashes, _slot_hashes(self._num_slots)) % len(self._hashes)
        return self._servers[found]

    @functools.cached_property
    def assignments(self) -> tuple[str, ...]:
        """Address of each slot, by slot.

        Raises:
            ValueError: The ring has no address.
        """
        return tuple(self.addresses[choice] for choice in self.choices.tolist())


# Few: the points of 800 addresses take 1.5 MB.
@functools.lru_cache(maxsize=8)
def ring_over(addresses: tuple[str, ...], num_slots: int = NUM_SLOTS) -> Ring:
    """Return the ring over these addresses, cached."""
    return Ring(addresses, num_slots)


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
def _slot_hashes(num_slots: int) -> npt.NDArray[np.uint32]:
    texts = (slot_text(slot, num_slots) for slot in range(num_slots))
    return np.array([zlib.crc32(text.encode()) for text in texts], dtype=np.uint32)
