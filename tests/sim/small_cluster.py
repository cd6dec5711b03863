"""The simulated cluster has few slots: what matters is that some have other owners than others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.sim.wires import LIMITS
from tests.sim.world import NUM_SLOTS
from verl_agent_env.cluster import agent, planner, ring, slots, store
from verl_agent_env.cluster.memory import log as memory_log
from verl_agent_env.engine.persistence import groups, journal, packing


@contextmanager
def small_cluster() -> Iterator[None]:
    """Have eight slots instead of thousands and calls of the log that carry little."""
    _forget_rings()
    with pytest.MonkeyPatch.context() as patch:
        for module in (agent, planner, ring, slots, store):
            patch.setattr(module, "NUM_SLOTS", NUM_SLOTS)
        # Groups, what is re-persisted and reads have to be cut.
        for module in (groups, journal):
            patch.setattr(module, "LIMITS", LIMITS)
        patch.setattr(packing.pack, "__defaults__", (LIMITS,))
        patch.setattr(memory_log, "MAX_LOADED", 2)
        patch.setattr(memory_log, "ENOUGH_LOADED_BYTES", 300)
        yield
    _forget_rings()


def _forget_rings() -> None:
    cached: Any
    for cached in (ring._slot_hashes, ring.ring_over):
        cached.cache_clear()
