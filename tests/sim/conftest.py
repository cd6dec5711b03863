"""Simulated clusters for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.small_cluster import small_cluster
from tests.sim.world import World, settled


@pytest.fixture
def few_slots() -> Iterator[None]:
    """What makes a simulated cluster small."""
    with small_cluster():
        yield


@pytest.fixture
def sharded_world(few_slots: None) -> Iterator[World]:
    """A world of two workers, a store and two logs."""
    made = settled(2)
    yield made
    made.end()


@pytest.fixture(params=[0, 2], ids=["one store", "store and two logs"])
def world(request: pytest.FixtureRequest, few_slots: None) -> Iterator[World]:
    """A world of two workers that have shared the slots."""
    made = settled(request.param)
    yield made
    made.end()
