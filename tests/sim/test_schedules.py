"""Schedules by hand, each of which one guard is there for."""

from __future__ import annotations

import pytest

from tests.sim.schedules import SCHEDULES
from tests.sim.shard_schedules import SHARD_SCHEDULES
from tests.sim.world import World


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_ends_well(name: str, world: World) -> None:
    SCHEDULES[name](world)
    world.finish()


@pytest.mark.parametrize("name", SHARD_SCHEDULES)
def test_schedule_of_several_logs_ends_well(name: str, sharded_world: World) -> None:
    SHARD_SCHEDULES[name](sharded_world)
    sharded_world.finish()
