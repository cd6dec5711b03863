"""Whatever happens to workers and messages, in whatever order: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.sim.machine import ClusterMachine, examples_of


@pytest.mark.usefixtures("few_slots")
def test_nothing_is_lost_whatever_happens_to_workers_and_messages() -> None:
    run_state_machine_as_test(ClusterMachine, settings=examples_of(250))
