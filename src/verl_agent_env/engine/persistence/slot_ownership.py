"""Ownership of slots by a worker, as its writes depend on it."""

from __future__ import annotations

from typing import Protocol


class SlotOwnership(Protocol):
    """The slots that this worker owns."""

    @property
    def generation(self) -> str:
        """Id of the data set in which this worker owns its slots."""

    def token_of(self, slot: int) -> str | None:
        """Return the lease token of a slot; None if this worker does not own the slot, or has no valid lease."""

    def owns(self, slot: int) -> bool:
        """Tell whether this worker owns the slot and its lease is valid."""

    def has_gone(self, slot: int) -> bool:
        """Tell whether another worker owns the slot."""
