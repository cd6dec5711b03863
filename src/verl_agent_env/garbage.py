"""Python's garbage collector in processes in which many objects live long."""

from __future__ import annotations

import gc

# A batch of 10,000 steps makes tens of thousands of objects, which are gone when it is answered: no need to look at them.
_THRESHOLDS = 150_000, 20, 20


def collect_seldom() -> None:
    """Have the collector leave alone what is there now, and look at the rest less often.

    Live environments and episodes are many small objects that seldom die together, and libraries such as PyTorch half a million
    that stay: at its usual pace the collector would walk through all of them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
