"""Records of idempotency keys: which request a key belongs to, and what the ids of its environments are made of.

A record is written before any environment is made, and never changes. So of two requests under one key, on whatever
workers and however close together, the first one writes the record and the second one reads it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

KNOWN_S = 3600.0
"""Seconds for which a key is known at least."""


class IdempotencyRecord(NamedTuple):
    """The record of one key."""

    fingerprint: str
    """Digest of the request that the key belongs to; without a space."""
    nonce: str
    """Random number of which the ids are made: they cannot be guessed from the key."""
    workers: tuple[str, ...] = ()
    """Addresses of the workers that the environments were placed on, in equal shares; empty for a single environment."""

    def to_text(self) -> str:
        """Return the record as one line of text."""
        return " ".join((self.fingerprint, self.nonce, *self.workers))

    @classmethod
    def from_text(cls, text: str) -> IdempotencyRecord:
        """Read what :meth:`to_text` wrote."""
        fingerprint, nonce, *workers = text.split(" ")
        return cls(fingerprint, nonce, tuple(workers))


class IdempotencyRecords(Protocol):
    """Records by the name of their key, each kept for a while."""

    async def claim(self, name: str, record: IdempotencyRecord) -> IdempotencyRecord:
        """Keep a record, unless the key has one.

        Returns:
            The record of the key: this one, or the earlier one.

        Raises:
            StoreUnavailableError: The store does not answer; whether the record is kept is unknown.
        """

    async def aclose(self) -> None:
        """Close connections; the records cannot be used afterwards."""
