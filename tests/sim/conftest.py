"""The simulated cluster has few slots: what matters is that some have other owners than others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.sim.wires import LIMITS
from tests.sim.world import NUM_SLOTS, World
from verl_agent_env.cluster import member, membership, memory_log, ring, slots, store
from verl_agent_env.engine import directory
from verl_agent_env.engine.persistence import groups, journal, packing


@pytest.fixture
def few_slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Eight slots instead of thousands, and no clock but the loop's."""
    _forget_rings()
    for module in (member, membership, ring, slots, store, directory):
        monkeypatch.setattr(module, "NUM_SLOTS", NUM_SLOTS)
    monkeypatch.setattr(member, "time", SimpleNamespace(monotonic=_virtual_now))
    # Calls of the log carry so little that groups, statements and reads have to be cut.
    for module in (groups, journal):
        monkeypatch.setattr(module, "LIMITS", LIMITS)
    monkeypatch.setattr(packing.pack, "__defaults__", (LIMITS,))
    monkeypatch.setattr(memory_log, "MAX_LOADED", 2)
    monkeypatch.setattr(memory_log, "ENOUGH_LOADED_BYTES", 300)
    yield
    _forget_rings()


@pytest.fixture
def world(few_slots: None) -> Iterator[World]:
    """A world of two workers that have shared the slots."""
    made = World()
    made.start()
    made.start()
    made.run(2.0)
    yield made
    made.end()


def _virtual_now() -> float:
    import asyncio

    return asyncio.get_running_loop().time()


def _forget_rings() -> None:
    cached: Any
    for cached in (ring._slot_hashes, ring.ring_over):
        cached.cache_clear()
