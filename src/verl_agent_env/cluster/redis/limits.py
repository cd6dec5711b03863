"""Limits of the connection to Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RedisLimits:
    """Time-outs and sizes of the Redis connection."""

    connect_s: float = 1.0
    """Seconds until a connection is established."""
    call_s: float = 2.0
    """Seconds until a call has its answer, without the time to send its bytes."""
    bytes_per_s: float = 1024.0 * 1024.0
    """Bytes that are allowed one more second."""
    poll_s: float = 1.0
    """Seconds between reads of the map's version while waiting, in case a notification was lost."""
    max_connections: int = 8
    """Largest number of connections of one client."""

    def __post_init__(self) -> None:
        if min(self.connect_s, self.call_s, self.bytes_per_s, self.poll_s, self.max_connections) <= 0:
            raise ValueError("all limits of the Redis connection must be above 0")
