"""Schedules by hand, each of which one guard is there for."""

from __future__ import annotations

import pytest

from tests.sim.schedules import SCHEDULES
from tests.sim.world import World


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_ends_well(name: str, world: World) -> None:
    SCHEDULES[name](world)
    world.finish()
