"""Which slots a worker owns, as far as what it writes down depends on it."""

from __future__ import annotations

from typing import Protocol


class Tenure(Protocol):
    """The slots that this worker owns."""

    @property
    def generation(self) -> str:
        """The data set in which it owns them."""

    def token_of(self, slot: int) -> str | None:
        """What proves that it owns the slot; None if it does not, or not at the moment."""

    def owns(self, slot: int) -> bool:
        """Whether it may act for the slot now: it owns it, and its lease is good."""

    def has_gone(self, slot: int) -> bool:
        """Whether another worker owns the slot."""
