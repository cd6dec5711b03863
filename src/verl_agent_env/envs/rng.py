"""Random generator of 100 bytes with the same numbers as NumPy's default one (PCG64).

``numpy.random.Generator`` takes more than a kilobyte for each environment. PCG64 is a 128-bit linear congruential
generator with an XSL-RR output (O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms
for Random Number Generation", 2014), implemented here with Python's integers.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_MASK_128 = (1 << 128) - 1
_MASK_64 = (1 << 64) - 1
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_DOUBLE = 2.0**-53


class EpisodeRandom:
    """Random generator of one episode, with the same numbers as ``numpy.random.default_rng(seed).random()``."""

    __slots__ = ("_increment", "_state")

    def __init__(self, state: int, increment: int) -> None:
        self._state = state
        self._increment = increment

    @classmethod
    def from_seed(cls, seed: int) -> EpisodeRandom:
        """Make the generator of ``seed`` (not negative), the same on every machine."""
        inner = np.random.PCG64(seed).state["state"]
        return cls(int(inner["state"]), int(inner["inc"]))

    def next_uint64(self) -> int:
        """Return the next 64 random bits."""
        state = (self._state * _MULTIPLIER + self._increment) & _MASK_128
        self._state = state
        mixed = (state >> 64) ^ (state & _MASK_64)
        rotation = state >> 122
        return ((mixed >> rotation) | (mixed << (64 - rotation))) & _MASK_64

    def random(self) -> float:
        """Return a float in [0, 1), with 53 random bits."""
        return (self.next_uint64() >> 11) * _DOUBLE

    def randrange(self, stop: int) -> int:
        """Return an integer from 0 to ``stop - 1``, uniformly."""
        if stop < 1:
            raise ValueError(f"there is no number below {stop} to choose from")
        # Reject what would favour small numbers.
        limit = (1 << 64) - (1 << 64) % stop
        while (bits := self.next_uint64()) >= limit:
            pass
        return bits % stop

    def choice(self, options: Sequence[T]) -> T:
        """Return one of ``options``, uniformly."""
        return options[self.randrange(len(options))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Shuffle ``items`` in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.randrange(i + 1)
            items[i], items[j] = items[j], items[i]

    @property
    def low_bits(self) -> int:
        """Lower 64 bits of the state, which distinguish two generators of one seed."""
        return self._state & _MASK_64

    def state(self) -> list[str]:
        """Return the whole state, in a form that JSON keeps exact."""
        return [f"{self._state:x}", f"{self._increment:x}"]

    @classmethod
    def from_state(cls, state: Sequence[str]) -> EpisodeRandom:
        """Make a generator from the result of :meth:`state`."""
        return cls(int(state[0], 16), int(state[1], 16))


def generator_from_state(state: dict[str, Any]) -> np.random.Generator:
    """Make a NumPy generator from ``generator.bit_generator.state``, for all bit generators of NumPy.

    Raises:
        ValueError: The bit generator is unknown.
    """
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64):
        if kind.__name__ == state["bit_generator"]:
            # The seed avoids a call of the system's random source.
            bits: Any = kind(0)
            bits.state = state
            return np.random.Generator(bits)
    raise ValueError(f"there is no random generator '{state['bit_generator']}'")


def stringify_integers(value: Any) -> Any:
    """Convert a NumPy generator's state to JSON values: 128-bit integers, which JSON readers would round, become text."""
    if isinstance(value, dict):
        return {key: stringify_integers(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return {"int": f"{value:x}"} if isinstance(value, int) else value


def parse_integers(value: Any) -> Any:
    """Reverse :func:`stringify_integers`."""
    if isinstance(value, dict):
        if value.keys() == {"int"}:
            return int(value["int"], 16)
        if value.keys() == {"array", "dtype"}:
            return np.array(value["array"], dtype=value["dtype"])
        return {key: parse_integers(inner) for key, inner in value.items()}
    return value
