"""A thousand workers that come and go: how many slots move, and how long none answers for a slot."""

from __future__ import annotations

import operator
import random
import sys

import numpy as np
import pytest

from tests.cluster.workers import worker
from verl_agent_env.cluster.planner import RebalancePlanner
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.cluster.store import ClusterMap, Ownership, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.types import NUM_SLOTS

WORKERS = 1000
CHANGES = 60
_RECORDS = [
    worker(f"life{number:04d}", address=f"10.0.{number // 250}.{number % 250}:80")
    for number in range(WORKERS)
]


def test_a_change_moves_few_more_slots_than_it_must() -> None:
    chance = random.Random(1)
    addresses = [record.address for record in _RECORDS]
    alive = set(addresses)
    before = Ring(addresses).assignments
    shares = []
    for _ in range(CHANGES):
        if len(alive) > WORKERS * 0.9 and chance.random() < 0.5:
            changed = chance.choice(sorted(alive))
            alive.remove(changed)
        else:
            gone = sorted(set(addresses) - alive)
            changed = chance.choice(gone) if gone else chance.choice(sorted(alive))
            alive ^= {changed}
        after = Ring(sorted(alive)).assignments
        # Only the slots of the worker that came or went.
        must_move = before.count(changed) + after.count(changed)
        assert sum(map(operator.ne, before, after)) == must_move
        shares.append(must_move)
        before = after
    report(f"{WORKERS} workers: {np.mean(shares):.1f} slots per change, {max(shares)} at most")
    assert np.mean(shares) <= 2 * NUM_SLOTS / WORKERS
    assert max(shares) <= 8 * NUM_SLOTS / WORKERS


@pytest.mark.parametrize("dead", [1, 50])
def test_every_slot_of_the_dead_is_claimed_by_exactly_one_at_once(dead: int) -> None:
    """Seconds without an owner are those of the lease: whoever sees its end claims without further waiting."""
    owners = Ring([record.address for record in _RECORDS]).assignments
    by_address = {record.address: record for record in _RECORDS}
    tokens = {
        slot: Ownership(f"n:{by_address[owners[slot]].incarnation}", by_address[owners[slot]].incarnation)
        for slot in range(NUM_SLOTS)
    }
    gone = random.Random(dead).sample(_RECORDS, dead)
    before = ClusterMap("g", 1, tokens, {record.incarnation: record for record in _RECORDS})
    alive = {record.incarnation: record for record in _RECORDS if record not in gone}
    after = ClusterMap("g", 2, tokens, alive)
    free = {slot for slot in range(NUM_SLOTS) if after.owner_of(slot) is None}
    claimed = [slot for record in _heirs(alive, free) for slot in _claims(record, before, after)]
    assert sorted(claimed) == sorted(free)
    report(f"{dead} of {WORKERS} dead: {len(free)} slots free for one lease, then claimed in one look")


def _heirs(alive: dict[str, WorkerRecord], free: set[int]) -> list[WorkerRecord]:
    """Those who have something to claim, and some who have not."""
    owners = Ring([record.address for record in alive.values()]).assignments
    wanted = {owners[slot] for slot in free}
    heirs = [record for record in alive.values() if record.address in wanted]
    return heirs + [record for record in alive.values() if record.address not in wanted][:5]


def _claims(record: WorkerRecord, before: ClusterMap, after: ClusterMap) -> tuple[int, ...]:
    planner = RebalancePlanner(record.incarnation, Timing(), lambda: 100.0)
    planner.observe(before)
    planner.observe(after)
    return planner.plan().claim


def report(figure: str) -> None:
    """What ``pytest -s`` shows."""
    sys.stdout.write(f"{figure}\n")
