"""A cache of a model's states by token sequence, found by sequences that begin with it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

State = TypeVar("State")

_START = 0


class PrefixCache(Generic[State]):
    """Keeps a state for each of some sequences; the least recently used are dropped."""

    def __init__(self, max_sequences: int) -> None:
        self._max_sequences = max_sequences
        self._found: OrderedDict[int, tuple[list[int], State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def longest_prefix(self, ids: Sequence[int]) -> tuple[int, State | None]:
        """Find the longest cached sequence that is a proper prefix of ``ids``.

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
        """Drop all entries."""
        self._found.clear()
