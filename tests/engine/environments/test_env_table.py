"""Live environments, closed ones and limits."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.engine.conftest import FakeClock
from verl_agent_env.config import HostLimits
from verl_agent_env.engine.environments.env_table import EnvTable
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentClosedError,
    EnvironmentNotFoundError,
    RunQuotaExceededError,
)
from verl_agent_env.types import slot_of

LIMITS = HostLimits(
    max_envs=3, max_envs_per_run=2, default_ttl_s=100.0, closed_memory_s=50.0, closed_memory_size=2
)


class Shelf:
    """A env_table and instances to put into it."""

    def __init__(self, registry: Registry, clock: FakeClock) -> None:
        self.env_table = EnvTable(LIMITS, clock, lambda *_, **__: None)
        self._kind = registry.kind("probe/inline-v0")

    def instance(self, env_id: str, run_id: str | None = None, ttl_s: float = 100.0) -> LiveEnv:
        return LiveEnv(env_id, self._kind, {}, run_id, ttl_s)

    def add(self, env_id: str, run_id: str | None = None, ttl_s: float = 100.0) -> LiveEnv:
        instance = self.instance(env_id, run_id, ttl_s)
        with self.env_table.reserved(instance):
            pass
        self.env_table.add(instance)
        return instance


@pytest.fixture
def shelf(registry: Registry, clock: FakeClock) -> Shelf:
    return Shelf(registry, clock)


def test_unknown_id_is_not_found(shelf: Shelf) -> None:
    with pytest.raises(EnvironmentNotFoundError) as caught:
        shelf.env_table.find("a")
    assert caught.value.env_id == "a"
    assert not shelf.env_table.was_closed("a")


def test_an_environment_that_is_lost_binds_no_slot(shelf: Shelf) -> None:
    bound = shelf.env_table.not_durable_in_slot
    lives, lost = shelf.add("4d7-a"), shelf.instance("4d7-b")
    slot = slot_of("4d7-a")
    lost.lost = "its worker has ended"
    shelf.env_table.add(lost)
    assert bound[slot] == 1
    # What was counted is taken back, whatever became of it meanwhile.
    lives.lost = "it failed"
    shelf.env_table.remove(lives, "closed")
    shelf.env_table.remove(lost, "closed")
    assert bound[slot] == 0


def test_closed_id_is_known_for_a_while(shelf: Shelf, clock: FakeClock) -> None:
    shelf.env_table.remove(shelf.add("a"), "idle")
    clock.now += 50.0
    assert shelf.env_table.was_closed("a")
    with pytest.raises(EnvironmentClosedError) as caught:
        shelf.env_table.find("a")
    assert caught.value.reason == "idle"
    clock.now += 0.1
    assert not shelf.env_table.was_closed("a")
    with pytest.raises(EnvironmentNotFoundError):
        shelf.env_table.find("a")


def test_only_the_latest_closed_ids_are_known(shelf: Shelf) -> None:
    for env_id in "abc":
        shelf.env_table.remove(shelf.add(env_id), "closed")
    assert [shelf.env_table.was_closed(env_id) for env_id in "abc"] == [False, True, True]


def test_full_directory_refuses(shelf: Shelf) -> None:
    for env_id in "abc":
        shelf.add(env_id)
    with pytest.raises(AtCapacityError) as caught:
        shelf.add("d")
    assert caught.value.limit == 3
    assert len(shelf.env_table) == 3


def test_room_held_for_others_counts(shelf: Shelf) -> None:
    shelf.add("a")
    with (
        shelf.env_table.reserved(shelf.instance("b")),
        shelf.env_table.reserved(shelf.instance("c")),
        pytest.raises(AtCapacityError),
        shelf.env_table.reserved(shelf.instance("d")),
    ):
        pass
    shelf.add("d")


def test_run_quota_counts_members_and_reservations(shelf: Shelf) -> None:
    shelf.add("a", "run")
    with shelf.env_table.reserved(shelf.instance("b", "run")):
        with (
            pytest.raises(RunQuotaExceededError) as caught,
            shelf.env_table.reserved(shelf.instance("c", "run")),
        ):
            pass
        with shelf.env_table.reserved(shelf.instance("c", "other")):
            pass
    assert (caught.value.run_id, caught.value.max_envs_per_run) == ("run", 2)
    shelf.add("b", "run")


def test_failed_creation_gives_its_room_back(shelf: Shelf) -> None:
    for _ in range(5):
        with pytest.raises(KeyError), shelf.env_table.reserved(shelf.instance("a", "run")):
            raise KeyError
    shelf.add("a", "run")
    shelf.add("b", "run")


def test_removal_makes_room_in_the_run(shelf: Shelf) -> None:
    first = shelf.add("a", "run")
    shelf.add("b", "run")
    shelf.env_table.remove(first, "closed")
    shelf.add("c", "run")
    assert sorted(shelf.env_table.of_run("run")) == ["b", "c"]
    assert shelf.env_table.of_run("none") == []


def test_counts_tell_live_created_and_closed(shelf: Shelf) -> None:
    first, second = shelf.add("a"), shelf.add("b")
    shelf.env_table.remove(first, "idle")
    shelf.env_table.remove(second, "closed")
    shelf.add("c")
    name = "probe/inline-v0"
    assert shelf.env_table.live[name] == 1
    assert shelf.env_table.created[name] == 3
    assert shelf.env_table.closed == {(name, "idle"): 1, (name, "closed"): 1}


def test_shortest_ttl_is_that_of_the_live(shelf: Shelf) -> None:
    assert shelf.env_table.shortest_ttl_s == 100.0
    short = shelf.add("a", ttl_s=5.0)
    shelf.add("b", ttl_s=300.0)
    assert shelf.env_table.shortest_ttl_s == 5.0
    shelf.env_table.remove(short, "closed")
    assert shelf.env_table.shortest_ttl_s == 300.0


def test_only_a_shorter_ttl_is_announced(shelf: Shelf) -> None:
    shelf.add("a", ttl_s=50.0)
    assert shelf.env_table.shorter_ttl.is_set()
    shelf.env_table.shorter_ttl.clear()
    shelf.add("b", ttl_s=50.0)
    shelf.add("c", ttl_s=60.0)
    assert not shelf.env_table.shorter_ttl.is_set()


class _Counted(float):
    """A duration that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        _Counted.comparisons += 1
        return float(self) < other

    def __gt__(self, other: float) -> bool:
        _Counted.comparisons += 1
        return float(self) > other


@pytest.mark.parametrize("step", [1, -1], ids=["ever_longer", "ever_shorter"])
def test_ttls_of_which_each_environment_has_its_own_are_not_all_looked_at(shelf: Shelf, step: int) -> None:
    # As of a client that gives what is left until its own deadline.
    number = 1000
    _Counted.comparisons = 0
    ttls = [_Counted(10_000 + step * position) for position in range(number)]
    for position, ttl in enumerate(ttls):
        shelf.env_table.add(shelf.instance(f"4d7-{position}", ttl_s=ttl))
        assert shelf.env_table.shortest_ttl_s == min(ttls[0], ttl)
    for position in range(number - 1):
        instance = shelf.env_table.find(f"4d7-{position}")
        shelf.env_table.remove(instance, "moved")
        assert shelf.env_table.shortest_ttl_s == (ttls[position + 1] if step > 0 else ttls[-1])
    assert _Counted.comparisons < 100 * number


def test_ttls_of_environments_that_are_gone_are_forgotten(shelf: Shelf) -> None:
    shelf.env_table.add(shelf.instance("4d7-stays", ttl_s=1.0))

    def come_and_go(times: int) -> None:
        for _ in range(times):
            instance = shelf.instance("4d7-passes", ttl_s=50.0)
            shelf.env_table.add(instance)
            shelf.env_table.remove(instance, "moved")

    come_and_go(10)
    tracemalloc.start()
    try:
        come_and_go(5000)
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()
