"""Whatever happens to workers and messages, in whatever order: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import pytest

from tests.sim.machine import ClusterMachine
from tests.sim.runs import EVERY_DAY, first_failure


@pytest.mark.usefixtures("few_slots")
def test_nothing_is_lost_whatever_happens_to_workers_and_messages() -> None:
    failure = first_failure(ClusterMachine, range(EVERY_DAY))
    assert failure is None, f"{failure}"
