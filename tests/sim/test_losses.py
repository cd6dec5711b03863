"""A store that is emptied or turns back costs at most what was not durable yet, and nothing while owners live."""

from __future__ import annotations

import pytest

from tests.sim.machine import LosingMachine
from tests.sim.runs import EVERY_DAY, first_failure


@pytest.mark.usefixtures("few_slots")
def test_a_store_that_forgets_costs_at_most_what_was_not_durable() -> None:
    failure = first_failure(LosingMachine, range(EVERY_DAY))
    assert failure is None, f"{failure}"
