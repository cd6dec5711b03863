"""A store that is emptied or turns back costs at most what was not durable yet, and nothing while owners live."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.sim.machine import LosingMachine, examples_of


@pytest.mark.usefixtures("few_slots")
def test_a_store_that_forgets_costs_at_most_what_was_not_durable() -> None:
    run_state_machine_as_test(LosingMachine, settings=examples_of(250))
