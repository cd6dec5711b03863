"""Answers are held back until they are written: without a task of their own, and only where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any

import pytest

from tests.engine.persistence.hosts import Cluster
from tests.waiting import NEVER_S, no_hang, until
from verl_agent_env.engine import CreateRequest, Host, PendingAnswer, await_maybe, map_maybe
from verl_agent_env.envs.base import Durability
from verl_agent_env.errors import EnvironmentClosedError, SequenceGapError, StoreUnavailableError
from verl_agent_env.wire.results import EncodedStep

LAKE = CreateRequest("verl_env/frozen_lake-v1", 1, {"is_slippery": False})


async def playing(cluster: Cluster, durability: Durability = "journal", **limits: Any) -> tuple[Host, str]:
    """A host with an environment of this durability that is written; from now on the log is away."""
    host = await cluster.host({LAKE.env_name: durability}, **{"patience_s": NEVER_S, **limits})
    env_id, _ = await await_maybe(host.create(LAKE))
    assert host.recorder is not None
    await host.recorder.journal.flush()
    cluster.log.is_away = True
    return host, env_id


async def soon(answer: Any) -> Any:
    async with no_hang():
        return await await_maybe(answer)


def pending(answer: Any) -> PendingAnswer[Any]:
    assert isinstance(answer, PendingAnswer)
    return answer


async def test_durable_step_is_applied_at_once_and_answered_when_it_is_written(cluster: Cluster) -> None:
    host, env_id = await playing(cluster)
    done: list[PendingAnswer[bytes]] = []
    answer = pending(map_maybe(host.step(env_id, "left", 0), EncodedStep.to_json))
    answer.add_done_callback(done.append)
    instance = await await_maybe(host.find(env_id))
    assert (instance.seq, done) == (1, [])
    cluster.log.is_away = False
    await until(lambda: done == [answer])
    assert answer.result() == instance.last_answer.to_json()  # type: ignore[union-attr]


async def test_answer_that_is_written_already_is_given_at_once(cluster: Cluster) -> None:
    host, env_id = await playing(cluster)
    cluster.log.is_away = False
    first = await await_maybe(host.step(env_id, "left", 0))
    cluster.log.is_away = True
    assert host.step(env_id, "left", 0) is first


@pytest.mark.parametrize("durability", ["none", "relaxed"])
async def test_what_nobody_waits_for_is_answered_at_once(cluster: Cluster, durability: Durability) -> None:
    host, env_id = await playing(cluster, durability)
    assert isinstance(host.step(env_id, "left", 0), EncodedStep)
    assert host.close(env_id) is None
    with pytest.raises(EnvironmentClosedError):
        await await_maybe(host.step(env_id, "left", 1))


async def test_refusal_that_tells_of_an_unwritten_step_is_held_back_like_an_answer(cluster: Cluster) -> None:
    host, env_id = await playing(cluster)
    host.step(env_id, "left", 0)
    refused = pending(host.step(env_id, "left", 5))
    cluster.log.is_away = False
    with pytest.raises(SequenceGapError):
        await soon(refused)


async def test_dropped_answer_is_lost_and_its_step_counts(cluster: Cluster) -> None:
    host, env_id = await playing(cluster)
    host.step(env_id, "left", 0)
    cluster.log.is_away = False
    again = await soon(host.step(env_id, "left", 0))
    assert (await await_maybe(host.find(env_id))).seq == 1
    assert isinstance(again, EncodedStep)


async def test_pending_answer_fails_when_its_patience_ends(cluster: Cluster) -> None:
    host, env_id = await playing(cluster, patience_s=0.05)
    with pytest.raises(StoreUnavailableError) as caught:
        await soon(pending(host.step(env_id, "left", 0)))
    assert caught.value.may_have_run


async def test_defect_of_a_callback_stops_neither_the_writing_nor_others(cluster: Cluster) -> None:
    host, env_id = await playing(cluster)
    done: list[Any] = []

    def broken(_: Any) -> None:
        raise RuntimeError("a defect")

    callbacks: list[Callable[[Any], Any]] = [broken, done.append]
    for seq, callback in enumerate(callbacks):
        pending(host.step(env_id, "left", seq)).add_done_callback(callback)
    cluster.log.is_away = False
    await until(lambda: len(done) == 1)
    assert isinstance(await soon(host.step(env_id, "left", 2)), EncodedStep)


async def test_environment_that_another_worker_held_is_looked_for_only_when_the_call_is_awaited(
    cluster: Cluster,
) -> None:
    _, env_id = await playing(cluster)
    cluster.log.is_away = False
    second = await cluster.host(patience_s=NEVER_S)
    call = second.step(env_id, "left", 0)
    assert isinstance(call, CoroutineType)
    assert second.env_table.get(env_id) is None
    assert isinstance(await soon(call), EncodedStep)
