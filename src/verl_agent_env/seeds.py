"""Seeds of episodes, and how one follows from another: the same on the server, in the client and in process."""

from __future__ import annotations

import numpy as np

MAX_SEED = (1 << 63) - 1
"""Seeds are integers from 0 to this one: what fits into a signed 64-bit integer."""


def following_seed(seed: int) -> int:
    """Derive the seed of the next episode: 53 bits, the integers that every JSON reader keeps exact."""
    # A separate stream, independent of the episode's own random numbers.
    return int(np.random.SeedSequence([seed, 0x5EED]).generate_state(1, np.uint64)[0]) & ((1 << 53) - 1)
