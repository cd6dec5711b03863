"""What is known of every ``Idempotency-Key``: which request it belongs to, and of what its environments' ids are made.

A record is written before anything is made, and never changes. So of two requests under one key, on whatever workers
and however close together, one is the first, and the other one learns of it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

KNOWN_S = 3600.0
"""How long a key is known at least."""


class IdempotencyRecord(NamedTuple):
    """What is known of a key."""

    fingerprint: str
    """Tells the request that it belongs to from all others; without a space."""
    nonce: str
    """Random: who knows the key does not know the ids."""
    workers: tuple[str, ...] = ()
    """Addresses of the workers that its environments were for, in equal shares; empty where it makes a single one."""

    def to_text(self) -> str:
        """As it is kept."""
        return " ".join((self.fingerprint, self.nonce, *self.workers))

    @classmethod
    def from_text(cls, text: str) -> IdempotencyRecord:
        """Undo :meth:`to_text`."""
        fingerprint, nonce, *workers = text.split(" ")
        return cls(fingerprint, nonce, tuple(workers))


class IdempotencyRecords(Protocol):
    """The records by name of their key, each kept for a while."""

    async def claim(self, name: str, record: IdempotencyRecord) -> IdempotencyRecord:
        """Keep a record, unless there is one.

        Returns:
            The record that is kept: this one, or the earlier one.

        Raises:
            StoreUnavailableError: The store does not answer; whether the record is kept is unknown.
        """

    async def aclose(self) -> None:
        """Let go of connections; the records cannot be used afterwards."""
