"""What a model computed of token sequences, found again by the sequences that begin with them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

State = TypeVar("State")

_START = 0


class PrefixCache(Generic[State]):
    """Remembers a state for each of some sequences; the longest unused are forgotten first."""

    def __init__(self, max_sequences: int) -> None:
        self._max_sequences = max_sequences
        self._found: OrderedDict[int, tuple[list[int], State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def longest_prefix(self, ids: Sequence[int]) -> tuple[int, State | None]:
        """The longest remembered sequence that ``ids`` begins with and goes on from.

        Returns:
            Its length and state; 0 and ``None`` if there is none.
        """
        length, state, key = 0, None, _START
        for end, token in enumerate(ids[:-1], start=1):
            key = hash((key, token))
            found = self._found.get(key)
            # Other sequences may have the same hash.
            if found is not None and found[0] == list(ids[:end]):
                self._found.move_to_end(key)
                length, state = end, found[1]
        return length, state

    def remember(self, ids: list[int], state: State) -> None:
        """Keep the state after ``ids``."""
        key = _START
        for token in ids:
            key = hash((key, token))
        self._found[key] = (ids, state)
        self._found.move_to_end(key)
        while len(self._found) > self._max_sequences:
            self._found.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
