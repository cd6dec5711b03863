"""What waits for the store, and what fails with it, by the durability of an environment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests import batch_calls
from tests.engine.awaiting import ask
from tests.engine.persistence.hosts import Cluster
from tests.engine.persistence.ledger import SPECS
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.host.batches import Batches
from verl_agent_env.envs.base import Durability
from verl_agent_env.errors import (
    EnvironmentFailedError,
    SequenceGapError,
    SequenceStaleError,
    StoreUnavailableError,
)
from verl_agent_env.wire.results import EncodedReset, EncodedStep

HANG_S = 60.0
KINDS = ("verl_env/frozen_lake-v1", "verl_env/countdown-v0")
LAKE = CreateRequest(KINDS[0], 1, {"is_slippery": False})
EARLY = pytest.mark.parametrize("early", ["relaxed", "none"])
NEVER_S = 3600.0
"""A patience that no test outlasts: who waits for the store at all does not come back."""


async def at_once(call: Any) -> Any:
    return await asyncio.wait_for(call, HANG_S)


async def mixed(cluster: Cluster, early: Durability, patience_s: float) -> tuple[Host, list[str], list[str]]:
    """A host with environments that are answered early, and others; the log is away now."""
    host = await cluster.host({KINDS[0]: early}, patience_s=patience_s)
    requests = [request for seed in range(4) for request in (LAKE, CreateRequest(KINDS[1], seed))]
    created = await batch_calls.create(host, requests)
    env_ids = [result[0] for result in created if isinstance(result, tuple)]
    assert host.recorder is not None
    await host.recorder.journal.flush()
    cluster.log.is_away = True
    return host, env_ids[::2], env_ids[1::2]


@EARLY
async def test_batch_of_environments_that_are_answered_early_never_waits_for_the_log(
    cluster: Cluster, early: Durability
) -> None:
    host, env_ids, _ = await mixed(cluster, early, NEVER_S)
    batches = Batches(host)
    for seq in range(3):
        answers = await at_once(batch_calls.step(batches, env_ids, ["left"] * 4, [seq] * 4))
        assert all(isinstance(answer, EncodedStep) for answer in answers)
    assert all(
        isinstance(answer, EncodedReset)
        for answer in await at_once(batch_calls.reset(batches, env_ids, None, None))
    )
    created = await at_once(batch_calls.create(batches, [LAKE] * 3))
    assert all(isinstance(result, tuple) for result in created)
    assert await at_once(batch_calls.close(batches, env_ids)) == (4, [])


@EARLY
async def test_single_calls_on_environments_that_are_answered_early_never_wait_for_the_log(
    cluster: Cluster, early: Durability
) -> None:
    host, env_ids, _ = await mixed(cluster, early, NEVER_S)
    await at_once(ask(host.step, env_ids[0], "left", 0))
    await at_once(ask(host.reset, env_ids[0]))
    await at_once(ask(host.close, env_ids[0]))
    env_id, _ = await at_once(ask(host.create, LAKE))
    await at_once(ask(host.step, env_id, "left", 0))


@EARLY
async def test_environments_that_are_answered_early_do_not_fail_with_others_of_their_batch(
    cluster: Cluster, early: Durability
) -> None:
    host, first, second = await mixed(cluster, early, patience_s=0.2)
    env_ids = [env_id for pair in zip(first, second, strict=True) for env_id in pair]
    answers = await at_once(batch_calls.step(host, env_ids, ["left"] * 8, [0] * 8))
    assert [type(answer) for answer in answers] == [EncodedStep, StoreUnavailableError] * 4
    closed = await at_once(batch_calls.close(host, env_ids))
    assert [(position, type(error)) for position, error in closed.errors] == [
        (position, StoreUnavailableError) for position in range(1, 8, 2)
    ]


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
async def test_what_a_refusal_tells_of_earlier_steps_is_written_before(cluster: Cluster, name: str) -> None:
    host = await cluster.host({name: "journal"}, specs=SPECS, patience_s=NEVER_S)
    env_id, _ = await await_maybe(host.create(CreateRequest(name, 1)))
    cluster.log.is_away = True
    begun: list[asyncio.Task[Any]] = [asyncio.create_task(ask(host.reset, env_id, 1, None, b"a"))]
    begun += [asyncio.create_task(ask(host.step, env_id, seq, seq)) for seq in range(3)]
    begun.append(asyncio.create_task(ask(host.reset, env_id, 1, None, b"b")))
    stale, gap, late = (
        asyncio.create_task(call)
        for call in (
            batch_calls.step(host, [env_id, env_id], [0, 1], [1, 2]),
            ask(host.step, env_id, 5, 5),
            ask(host.reset, env_id, 1, None, b"a"),
        )
    )
    done, _ = await asyncio.wait((stale, gap, late), timeout=0.3)
    assert not done
    cluster.log.is_away = False
    await at_once(asyncio.gather(*begun))
    assert [type(error) for error in await at_once(stale)] == [SequenceGapError] * 2
    with pytest.raises(SequenceGapError):
        await at_once(gap)
    with pytest.raises(SequenceStaleError):
        await at_once(late)


@EARLY
async def test_early_answers_are_written_when_the_log_is_back(cluster: Cluster, early: Durability) -> None:
    host, env_ids, _ = await mixed(cluster, early, NEVER_S)
    await await_maybe(host.step(env_ids[0], "left", 0))
    await await_maybe(host.reset(env_ids[0]))
    await await_maybe(host.close(env_ids[1]))
    cluster.log.is_away = False
    assert host.recorder is not None
    await at_once(host.recorder.journal.flush())
    first, second = await cluster.log.load(env_ids[:2])
    assert b'"episode":1' in (first.header or b"")
    assert second.closed_as == "closed"


async def test_live_environments_of_a_batch_go_on_while_others_cannot_be_read(cluster: Cluster) -> None:
    host, _, env_ids = await mixed(cluster, "relaxed", patience_s=0.2)
    unread = "abc-" + "0" * 32
    cluster.log.is_away = False
    cluster.log.is_unreadable = True
    answers = await at_once(batch_calls.step(host, [env_ids[0], unread, env_ids[1]], ["left"] * 3, None))
    assert [type(answer) for answer in answers] == [EncodedStep, StoreUnavailableError, EncodedStep]
    created = await at_once(
        batch_calls.create(host, [CreateRequest(KINDS[1], 1, env_id=unread), CreateRequest(KINDS[1], 1)])
    )
    # What may be there already must not be made once more.
    assert isinstance(created[0], StoreUnavailableError)
    assert isinstance(created[1], tuple)
    closed = await at_once(batch_calls.close(host, [unread, env_ids[0]]))
    assert [position for position, _ in closed.errors] == [0]


async def test_broken_environment_keeps_no_other_out_of_an_emptied_store(cluster: Cluster) -> None:
    names = [spec.name for spec in SPECS]
    host = await cluster.host(dict.fromkeys(names, "snapshot"), specs=SPECS, patience_s=NEVER_S)
    env_ids = [
        (await await_maybe(host.create(CreateRequest(name, 1))))[0] for name in names for _ in range(5)
    ]
    for env_id in env_ids:
        await await_maybe(host.step(env_id, 1, 0))
    for env_id in env_ids[::5]:
        with pytest.raises(EnvironmentFailedError):
            await await_maybe(host.step(env_id, "raise", 1))
        assert host.env_table.find(env_id).env is None
    assert host.recorder is not None
    await cluster.empty(host)
    host.recorder.repersist_all(env_ids)
    await at_once(host.recorder.journal.flush())
    second = await cluster.host(dict.fromkeys(names, "snapshot"), specs=SPECS)
    await second.recoveries.ensure(env_ids)
    assert {second.env_table.find(env_id).seq for env_id in env_ids} == {1}
