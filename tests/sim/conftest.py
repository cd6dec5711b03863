"""Simulated clusters for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.small_cluster import small_cluster
from tests.sim.world import World


@pytest.fixture
def few_slots() -> Iterator[None]:
    """What makes a simulated cluster small."""
    with small_cluster():
        yield


@pytest.fixture
def world(few_slots: None) -> Iterator[World]:
    """A world of two workers that have shared the slots."""
    made = World()
    made.start()
    made.start()
    made.run(2.0)
    yield made
    made.end()
