"""Ownership of slots by a worker, as its writes depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class SlotOwnership(Protocol):
    """The slots that this worker owns, as far as they are written to one log."""

    @property
    def generation(self) -> str:
        """Id of the data set in which this worker owns its slots."""

    @property
    def tokens(self) -> Mapping[int, str]:
        """Lease token of each slot that this worker owns: another mapping whenever one of them, or the data set, changes."""

    def token_of(self, slot: int) -> str | None:
        """Return the lease token of a slot; None if this worker does not own the slot."""

    def owns(self, slot: int) -> bool:
        """Tell whether this worker owns the slot and its lease is valid."""

    def has_gone(self, slot: int) -> bool:
        """Tell whether another worker owns the slot."""

    def was_refused(self) -> bool:
        """Note that the log refused a token, or the data set.

        Returns:
            True if the log itself is asked next who may write, and the slots have no tokens until then; False if what it
            refused is another worker's.
        """
