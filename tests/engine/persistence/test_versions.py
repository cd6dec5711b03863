"""An episode meets other versions of its environment's code, as in a rolling upgrade."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.engine.persistence.hosts import Cluster
from tests.engine.persistence.ledger import SPECS, Ledger
from tests.wayfarer import ENV_NAME, write_package
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.envs.registry import EnvSpec
from verl_agent_env.errors import IncompatibleVersionError, ReplayDivergedError
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.records import Header

_numbers = itertools.count()

MakeVersion = Callable[..., EnvSpec]
WALK = ["walk", "walk", "turn", "walk"]


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeVersion:
    """A function that installs a version of the environment, under one name with all others."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(**changes: Any) -> EnvSpec:
        module = f"wayfarer_{next(_numbers)}"
        write_package(tmp_path, module=module, **changes)
        return EnvSpec(ENV_NAME, f"{module}:RoadEnv")

    return install


async def begun(host: Host, steps: int, seed: int = 7) -> str:
    env_id, _ = await await_maybe(host.create(CreateRequest(ENV_NAME, seed)))
    for seq in range(steps):
        await await_maybe(host.step(env_id, WALK[seq % 4], seq))
    return env_id


async def shown(host: Host, env_id: str, action: Any, seq: int) -> str:
    """What a step shows in the end."""
    answer = await await_maybe(host.step(env_id, action, seq))
    content: str = orjson.loads(answer.observation)[-1]["content"]
    return content


@pytest.mark.parametrize("state_version", [1, None], ids=["state", "no state"])
@pytest.mark.parametrize("steps", [0, 1, 15, 16, 20])
async def test_episode_outlives_other_words(
    cluster: Cluster, version: MakeVersion, steps: int, state_version: int | None
) -> None:
    old, new = (version(prompt=prompt, state_version=state_version) for prompt in ("Old", "New"))
    first = await cluster.host(specs=[old])
    env_id = await begun(first, steps)
    second = await cluster.host(specs=[new])
    said = await shown(second, env_id, "walk", steps)
    assert said.startswith("New, at ")
    reference = await cluster.host(specs=[new])
    twin = await begun(reference, steps)
    assert await shown(reference, twin, "walk", steps) == said
    # The journal goes on in the words of both.
    third = await cluster.host(specs=[old])
    assert (await shown(third, env_id, "turn", steps + 1)).startswith("Old, at ")


async def test_same_code_that_says_something_else_is_found_out(
    cluster: Cluster, version: MakeVersion
) -> None:
    spec = version()
    env_id = await begun(await cluster.host(specs=[spec]), 3)
    kept = cluster.log._kept[env_id]
    digest = kept.entries[1].split(b"\n")[1]
    # Only what was shown differs.
    kept.entries[1] = kept.entries[1].replace(digest, digest[:9] + b"00000000" + digest[17:])
    second = await cluster.host(specs=[spec])
    with pytest.raises(ReplayDivergedError) as diverged:
        await await_maybe(second.step(env_id, "walk", 3))
    assert diverged.value.seq == 1


@pytest.mark.parametrize(
    "changes", [{"stride": 2}, {"reward": "1.0"}], ids=["another state", "another reward"]
)
async def test_other_rules_are_found_out(
    cluster: Cluster, version: MakeVersion, changes: dict[str, Any]
) -> None:
    old, new = version(), version(**changes)
    env_id = await begun(await cluster.host(specs=[old]), 3)
    second = await cluster.host(specs=[new])
    with pytest.raises(ReplayDivergedError) as diverged:
        await await_maybe(second.step(env_id, "walk", 3))
    assert diverged.value.seq == 0


async def test_rules_without_a_state_are_compared_by_their_rewards(
    cluster: Cluster, version: MakeVersion
) -> None:
    old, new = version(state_version=None), version(state_version=None, reward="1.0")
    env_id = await begun(await cluster.host(specs=[old]), 3)
    second = await cluster.host(specs=[new])
    with pytest.raises(ReplayDivergedError):
        await await_maybe(second.step(env_id, "walk", 3))


@pytest.mark.parametrize("steps", [0, 3, 20])
async def test_episode_goes_on_from_its_state_though_its_beginning_would_be_another(
    cluster: Cluster, version: MakeVersion, steps: int
) -> None:
    old, new = version(), version(prompt="New", start=1000)
    env_id = await begun(await cluster.host(specs=[old]), steps)
    reference = await cluster.host(specs=[old])
    said = await shown(reference, await begun(reference, steps), "walk", steps)
    second = await cluster.host(specs=[new])
    assert await shown(second, env_id, "walk", steps) == said.replace("You walk along a road", "New")


@pytest.mark.parametrize("steps", [0, 3, 20])
@pytest.mark.parametrize("changes", [{"state_version": 2}, {"state_version": None}], ids=["other", "none"])
async def test_state_of_another_format_is_a_typed_error_and_stays_where_it_is(
    cluster: Cluster, version: MakeVersion, steps: int, changes: dict[str, Any]
) -> None:
    old, new = version(), version(**changes)
    env_id = await begun(await cluster.host(specs=[old]), steps)
    second = await cluster.host(specs=[new])
    for _ in range(2):
        with pytest.raises(IncompatibleVersionError) as refused:
            await await_maybe(second.step(env_id, "walk", steps))
    assert refused.value.retryable
    assert refused.value.written_as == "1.1"
    assert refused.value.readable == {2: "1.2", None: "none"}[changes["state_version"]]
    # Nothing is lost: where the old version lives, it goes on.
    third = await cluster.host(specs=[old])
    assert (await shown(third, env_id, "walk", steps)).startswith("You walk")
    fourth = await cluster.host(specs=[new])
    await await_maybe(fourth.close(env_id))
    assert env_id not in cluster.log._kept


async def test_kind_that_is_not_installed_is_a_typed_error(cluster: Cluster, version: MakeVersion) -> None:
    spec = version()
    env_id = await begun(await cluster.host(specs=[spec]), 3)
    second = await cluster.host()
    with pytest.raises(IncompatibleVersionError) as refused:
        await await_maybe(second.step(env_id, "walk", 3))
    assert refused.value.env_name == ENV_NAME
    third = await cluster.host(specs=[spec])
    assert await shown(third, env_id, "walk", 3)


async def test_versions_are_a_part_of_the_record(cluster: Cluster, version: MakeVersion) -> None:
    old, new = version(), version(prompt="New")
    headers = []
    for spec in (old, new):
        env_id = await begun(await cluster.host(specs=[spec]), 0)
        headers.append(Header.from_json(cluster.log._kept[env_id].header))
    assert [header.state_format for header in headers] == ["1.1", "1.1"]
    assert headers[0].code != headers[1].code


@pytest.mark.parametrize("execution", ["inline", "thread"])
async def test_episode_that_is_handed_over_by_its_state_is_played_by_no_other_rules(
    cluster: Cluster, version: MakeVersion, execution: str
) -> None:
    old = version(execution=execution)
    new = version(execution=execution, stride=100, reward="1.0", prompt="New")
    first = await cluster.host(specs=[old])
    env_id = await begun(first, 3)
    fresh, _ = await await_maybe(first.create(CreateRequest(ENV_NAME, 7)))
    await first.save_states(range(NUM_SLOTS), 60.0)
    assert first.recorder is not None
    await first.recorder.journal.flush()
    second = await cluster.host(specs=[new])
    # What was answered last is answered as it was, and the rest by the new rules.
    assert (await shown(second, env_id, WALK[2], 2)).startswith("You walk")
    assert await shown(second, env_id, "walk", 3) == "New, at -91"
    assert (await shown(second, fresh, "walk", 0)).startswith("New")


async def test_state_of_an_environment_that_went_meanwhile_is_not_saved(cluster: Cluster) -> None:
    host = await cluster.host(specs=SPECS)
    gone, fine = [(await await_maybe(host.create(CreateRequest("ledger/thread-v0", 1))))[0] for _ in range(2)]
    for env_id in (gone, fine):
        await await_maybe(host.step(env_id, 1, 0))
    instance = host.env_table.find(gone)
    assert instance.lock is not None
    saving = asyncio.create_task(host.save_states(range(NUM_SLOTS), 60.0))
    await asyncio.sleep(0)
    async with instance.lock:
        host.env_table.evict_moved(gone)
    await saving
    assert host.recorder is not None
    await host.recorder.journal.flush()
    saved = [write.env_id for group in cluster.log.commits for write in group if write.kind == "save"]
    assert saved == [fine]


async def test_hand_over_waits_for_no_environment_that_is_busy_or_fails(cluster: Cluster) -> None:
    first = await cluster.host(specs=SPECS)
    busy, broken, fine = [
        (await await_maybe(first.create(CreateRequest(f"ledger/{kind}-v0", 1))))[0]
        for kind in ("thread", "inline", "inline")
    ]
    for env_id in (busy, broken, fine):
        await await_maybe(first.step(env_id, 1, 0))
    instance = first.env_table.find(busy)
    assert instance.lock is not None
    async with instance.lock:
        first.env_table.find(broken).env = None
        await first.save_states(range(NUM_SLOTS), 60.0)
    saved = {env_id: first.env_table.find(env_id).state_seq for env_id in (busy, broken, fine)}
    assert saved == {busy: 0, broken: 0, fine: 1}
    Ledger.broken = ValueError("told to")
    await await_maybe(first.step(fine, 1, 1))
    await first.save_states(range(NUM_SLOTS), 60.0)
    Ledger.broken = None
    assert first.recorder is not None
    assert first.recorder.failed_snapshots.total() == 2
    second = await cluster.host(specs=SPECS)
    for env_id, seq in ((busy, 1), (broken, 1), (fine, 2)):
        await await_maybe(second.step(env_id, 1, seq))
