"""Calls from one worker to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from verl_agent_env.errors import WorkerUnreachableError

WORKER_PATH = "/internal/worker"
"""Where a worker tells of itself."""


@dataclass(frozen=True)
class PeerAnswer:
    """A success."""

    body: bytes
    media_type: bytes


class Peers(Protocol):
    """The other workers, as one of them reaches them."""

    async def open(self) -> None:
        """Be ready for calls."""

    async def close(self) -> None:
        """Close all connections."""

    def heard_at(self, address: str) -> float | None:
        """Return the time of a worker's last sign of life, on the event loop's clock; None if it is long ago."""

    async def call(
        self,
        address: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[bytes, bytes] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> PeerAnswer:
        """Call the worker at ``address``.

        Args:
            address: ``host:port``.
            method: ``GET`` or ``POST``.
            path: Path and query, quoted.
            body: As it is sent.
            headers: Of the client's request: what makes it repeatable goes along.
            timeout_s: Seconds that the call may take, if fewer than all calls may.

        Raises:
            WorkerUnreachableError: No connection came about, the worker fell silent, or no answer came in time.
            VerlAgentEnvError: The worker's own error.
        """


class NoPeers:
    """Implements :class:`Peers` for a process on its own, which starts sooner without an HTTP client."""

    async def open(self) -> None:
        """Implement :class:`Peers`."""

    async def close(self) -> None:
        """Implement :class:`Peers`."""

    def heard_at(self, address: str) -> float | None:
        return None

    async def call(
        self,
        address: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[bytes, bytes] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> PeerAnswer:
        raise WorkerUnreachableError(address, "this process has no other workers", may_have_run=False)
