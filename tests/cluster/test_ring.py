"""The ring by itself; `test_ring_against_nginx` holds it against nginx."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cpu import assert_within
from verl_agent_env.cluster.ring import Ring, balance, moved, ring_over
from verl_agent_env.types import NUM_SLOTS

ADDRESSES = [f"10.0.{number // 8}.{number % 8}:{8001 + number % 4}" for number in range(24)]

addresses = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=8, unique=True)


def test_owner_is_the_entry_of_the_assignment() -> None:
    ring = Ring(ADDRESSES[:4])
    assert len(ring.assignments) == NUM_SLOTS
    assert [ring.owner(slot) for slot in (0, 77, 4095)] == [ring.assignments[slot] for slot in (0, 77, 4095)]
    assert set(ring.assignments) == set(ADDRESSES[:4])


def test_known_slots_stay_where_nginx_1_22_sends_them() -> None:
    ring = Ring([f"127.0.0.1:{port}" for port in (8001, 8002, 8003, 8004)])
    seen = "8003 8004 8004 8004 8002 8001 8004 8002 8003 8004 8002 8003 8004 8001 8002 8003"
    assert [ring.owner(slot)[-4:] for slot in range(0, NUM_SLOTS, 256)] == seen.split()


@given(addresses, st.data())
def test_the_dead_are_passed_over_as_if_they_were_not_there(chosen: list[str], data: st.DataObject) -> None:
    alive = data.draw(st.lists(st.sampled_from(chosen), min_size=1, unique=True))
    assert Ring(chosen).assignment(alive) == Ring(alive).assignments


@given(addresses, st.data())
def test_only_the_slots_of_the_dead_move(chosen: list[str], data: st.DataObject) -> None:
    alive = data.draw(st.sets(st.sampled_from(chosen), min_size=1))
    ring = Ring(chosen)
    for before, after in zip(ring.assignments, ring.assignment(alive), strict=True):
        assert after == before if before in alive else after in alive


@given(addresses)
def test_order_of_the_addresses_does_not_matter(chosen: list[str]) -> None:
    assert Ring(sorted(chosen, reverse=True)).assignments == Ring(chosen).assignments


def test_skips_count_the_points_in_between() -> None:
    ring = Ring(ADDRESSES[:8])
    assert ring.most_skips(ADDRESSES[:8]) == 0
    assert 0 < ring.most_skips(ADDRESSES[:6]) < ring.most_skips(ADDRESSES[:1])


def test_nobody_alive_is_an_error() -> None:
    for attempt in (
        lambda: Ring([]).assignments,
        lambda: Ring(ADDRESSES[:2]).assignment(["elsewhere:1"]),
        lambda: Ring(ADDRESSES[:2]).most_skips([]),
    ):
        with pytest.raises(ValueError, match="alive"):
            attempt()


@pytest.mark.parametrize("wrong", [["a:1", "b:1", "a:1"], ["no-port"], [":80"], ["a:http"], ["a:"]])
def test_what_is_no_ring_is_refused(wrong: list[str]) -> None:
    with pytest.raises(ValueError, match=r"more than once|is no address"):
        Ring(wrong)


def test_hundred_workers_take_milliseconds() -> None:
    hundred = [f"10.1.0.{number}:8001" for number in range(100)]
    assert_within(0.5, lambda: Ring(hundred).assignments)
    ring = Ring(hundred)
    assert len(set(ring.assignments)) == 100
    assert_within(0.05, lambda: ring.assignment(set(hundred[1:])))


def test_figures_count_slots() -> None:
    figures = balance(["a", "a", "a", "b"], workers=2)
    assert (figures.fullest, figures.emptiest) == (1.5, 0.5)
    assert balance(["a", "a"], workers=2).emptiest == 0
    assert moved("aab", "abb") == 1


def test_rings_are_kept() -> None:
    assert ring_over(("a:1", "b:1")) is ring_over(("a:1", "b:1"))
