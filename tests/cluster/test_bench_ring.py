"""The benchmark of the ring prints figures that are possible."""

from __future__ import annotations

import pytest

from loadtests.bench_ring import SIZES, balance, measure, moved, ring_table
from verl_agent_env.types import NUM_SLOTS


@pytest.mark.parametrize("workers", [2, 8])
def test_figures_are_those_of_a_consistent_hash(workers: int) -> None:
    figures = measure(workers, trials=3)
    assert 1 <= figures.fullest <= figures.fullest_ever < 1.6
    assert 0.5 < figures.emptiest <= 1
    assert figures.left == NUM_SLOTS / workers
    assert (figures.left_needlessly, figures.joined_needlessly) == (0, 0)


def test_table_has_a_row_for_each_size() -> None:
    assert ring_table(trials=1).row_count == len(SIZES)


def test_figures_count_slots() -> None:
    figures = balance(["a", "a", "a", "b"], workers=2)
    assert (figures.fullest, figures.emptiest) == (1.5, 0.5)
    assert balance(["a", "a"], workers=2).emptiest == 0
    assert moved("aab", "abb") == 1
