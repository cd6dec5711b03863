"""What a member of a cluster learns of the formats of its host's environments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest

from tests.engine.persistence import oracles
from tests.engine.persistence.hosts import Cluster
from tests.wayfarer import ENV_NAME, write_package
from verl_agent_env.engine import CreateRequest, await_maybe
from verl_agent_env.envs.registry import BUILT_IN, EnvSpec
from verl_agent_env.errors import IncompatibleVersionError
from verl_agent_env.server.cluster.local_environments import LocalEnvironments
from verl_agent_env.types import NUM_SLOTS, new_env_id, slot_of

LAKE = "verl_env/frozen_lake-v1"


async def none_lost(_: Collection[int]) -> Collection[int]:
    """Find that nothing that was written is lost."""
    return ()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    several = Cluster()
    yield several
    await several.aclose()


async def test_formats_are_those_in_which_environments_are_kept_and_the_worker_reads(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for state_version in (1, 2):
        write_package(tmp_path, module=f"roads_{state_version}", state_version=state_version)
    old_road, new_road = (EnvSpec(ENV_NAME, f"roads_{version}:RoadEnv") for version in (1, 2))

    first = await cluster.host(specs=[*BUILT_IN, old_road])
    road, _ = await await_maybe(first.create(CreateRequest(ENV_NAME, 7)))
    lake, _ = await await_maybe(first.create(CreateRequest(LAKE, 7)))
    environments = LocalEnvironments(first, range(NUM_SLOTS).__contains__, none_lost)
    reads = environments.reads()
    assert reads.keys() == {ENV_NAME, LAKE}
    assert environments.unreadable_slots() == frozenset()
    assert environments.formats_in([slot_of(lake)])[slot_of(lake)] >= {(LAKE, reads[LAKE])}

    second = await cluster.host(specs=[*BUILT_IN, new_road])
    with pytest.raises(IncompatibleVersionError):
        await await_maybe(second.step(road, "walk", 0))
    slot, empty = slot_of(road), (slot_of(road) + 1) % NUM_SLOTS
    cold = {empty}
    environments = LocalEnvironments(second, lambda slot: slot not in cold, none_lost)
    assert environments.unreadable_slots() == {slot}
    assert environments.formats_in([slot])[slot] >= {(ENV_NAME, reads[ENV_NAME])}
    # Of what may be in a slot that was not brought back yet, all is to be expected that is known.
    assert environments.formats_in([empty])[empty] >= environments.reads().items()
    await await_maybe(second.close(road))
    assert environments.unreadable_slots() == frozenset()
    assert environments.formats_in([slot])[slot] <= {(LAKE, reads[LAKE])}


async def test_kinds_of_others_are_learnt_where_they_are_installed(cluster: Cluster) -> None:
    environments = LocalEnvironments(await cluster.host(), range(NUM_SLOTS).__contains__, none_lost)
    assert environments.reads() == {}
    await environments.load_kinds([LAKE, "acme/unheard_of-v0"])
    assert environments.reads().keys() == {LAKE}


async def test_a_slot_stays_as_long_as_a_step_in_it_calls_the_outside(cluster: Cluster) -> None:
    host = await cluster.host(specs=oracles.SPECS)
    calling, idle = (new_env_id(slot) for slot in (1, 2))
    for env_id in (calling, idle):
        request = CreateRequest(oracles.SPECS[0].name, 1, env_id=env_id)
        await await_maybe(host.create(request))
        await await_maybe(host.step(env_id, "no call", 0))
    environments = LocalEnvironments(host, range(NUM_SLOTS).__contains__, none_lost)
    lock = host.env_table.find(calling).lock
    assert lock is not None
    async with lock:
        # The next owner would take the step anew, and call a second time.
        assert await environments.prepare_hand_over([1, 2, 3]) == {2, 3}
    assert await environments.prepare_hand_over([1, 2, 3]) == {1, 2, 3}
