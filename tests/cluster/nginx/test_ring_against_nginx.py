"""The ring picks what a real nginx picks, for every slot, with dead upstreams too."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from tests.cluster.dead_points import MAX_SKIPS, passed_over
from tests.cluster.nginx_process import HashingNginx, Upstreams
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS, slot_text

SLOTS = [slot_text(slot) for slot in range(NUM_SLOTS)]
SOME = range(0, MANY_SLOTS, 17)


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    servers = Upstreams(8)
    yield servers
    servers.close()


@pytest.fixture
def nginx(upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HashingNginx]:
    """An nginx that has not yet met a dead upstream."""
    process = HashingNginx(tmp_path_factory.mktemp("nginx"), upstreams.addresses)
    yield process
    process.stop()


@pytest.mark.parametrize("dead", [0, 2, 5])
async def test_ring_agrees_with_nginx_on_every_slot(
    upstreams: Upstreams, nginx: HashingNginx, dead: int
) -> None:
    ring = Ring(upstreams.addresses)
    choices = list(itertools.combinations(upstreams.addresses, 8 - dead))
    random.Random(dead).shuffle(choices)
    # Beyond so many points of dead upstreams nginx takes any: which one says nothing about the ring.
    alive = next(choice for choice in choices if passed_over(ring, choice)[1] <= MAX_SKIPS)
    upstreams.keep(alive)
    assert await nginx.assignment(SLOTS) == Ring(alive).assignments
    assert await nginx.assignment(SLOTS) == Ring(alive).assignments


async def test_ring_agrees_with_nginx_on_slots_of_four_digits(
    upstreams: Upstreams, nginx: HashingNginx
) -> None:
    upstreams.keep(upstreams.addresses)
    ring = Ring(upstreams.addresses, MANY_SLOTS).assignments
    assert len(ring) == MANY_SLOTS
    picked = await nginx.assignment([slot_text(slot, MANY_SLOTS) for slot in SOME])
    assert list(picked) == [ring[slot] for slot in SOME]


async def test_ring_of_other_addresses_disagrees(upstreams: Upstreams, nginx: HashingNginx) -> None:
    """The comparison can fail."""
    upstreams.keep(upstreams.addresses)
    others = Ring([address.replace("127.0.0.1", "127.0.0.2") for address in upstreams.addresses])
    picked = await nginx.assignment(SLOTS)
    other = [address.replace("127.0.0.2", "127.0.0.1") for address in others.assignments]
    assert sum(a == b for a, b in zip(picked, other, strict=True)) < NUM_SLOTS / 2
