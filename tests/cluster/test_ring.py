"""The ring by itself; `test_ring_against_nginx` holds it against nginx."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.dead_points import passed_over
from tests.cpu import assert_within
from verl_agent_env.cluster.ring import Ring, ring_over
from verl_agent_env.types import NUM_SLOTS

ADDRESSES = [f"10.0.{number // 8}.{number % 8}:{8001 + number % 4}" for number in range(24)]

addresses = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=8, unique=True)


def test_every_slot_has_an_owner_of_the_ring() -> None:
    ring = Ring(ADDRESSES[:4])
    assert len(ring.assignments) == NUM_SLOTS
    assert set(ring.assignments) == set(ADDRESSES[:4])


def test_known_slots_stay_where_nginx_1_22_sends_them() -> None:
    ring = Ring([f"127.0.0.1:{port}" for port in (8001, 8002, 8003, 8004)])
    seen = "8003 8004 8004 8004 8002 8001 8004 8002 8003 8004 8002 8003 8004 8001 8002 8003"
    assert [address[-4:] for address in ring.assignments[::256]] == seen.split()


@settings(max_examples=20, deadline=None)
@given(addresses, st.data())
def test_the_dead_are_passed_over_as_if_they_were_not_there(chosen: list[str], data: st.DataObject) -> None:
    alive = data.draw(st.lists(st.sampled_from(chosen), min_size=1, unique=True))
    alive.sort(key=chosen.index)
    assert passed_over(Ring(chosen), alive)[0] == list(Ring(alive).assignments)


@given(addresses, st.data())
def test_only_the_slots_of_the_dead_move(chosen: list[str], data: st.DataObject) -> None:
    alive = data.draw(st.sets(st.sampled_from(chosen), min_size=1))
    left = Ring([address for address in chosen if address in alive])
    for before, after in zip(Ring(chosen).assignments, left.assignments, strict=True):
        assert after == before if before in alive else after in alive


@given(addresses)
def test_order_of_the_addresses_does_not_matter(chosen: list[str]) -> None:
    assert Ring(sorted(chosen, reverse=True)).assignments == Ring(chosen).assignments


def test_a_ring_without_addresses_has_no_owners() -> None:
    with pytest.raises(ValueError, match="without addresses"):
        _ = Ring([]).assignments


@pytest.mark.parametrize("wrong", [["a:1", "b:1", "a:1"], ["no-port"], [":80"], ["a:http"], ["a:"]])
def test_what_is_no_ring_is_refused(wrong: list[str]) -> None:
    with pytest.raises(ValueError, match=r"more than once|is no address"):
        Ring(wrong)


def test_hundred_workers_take_milliseconds() -> None:
    hundred = [f"10.1.0.{number}:8001" for number in range(100)]
    assert_within(0.5, lambda: Ring(hundred).assignments)
    assert len(set(Ring(hundred).assignments)) == 100


def test_rings_are_kept() -> None:
    assert ring_over(("a:1", "b:1")) is ring_over(("a:1", "b:1"))
    assert ring_over(("a:1", "b:1"), 8) is not ring_over(("a:1", "b:1"))
