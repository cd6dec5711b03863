"""Environments that call the outside outlive their host: what was answered is read, and nobody is asked again."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.engine.persistence import oracles
from tests.engine.persistence.hosts import Cluster
from verl_agent_env.engine import CreateRequest, Host, await_maybe, inspection
from verl_agent_env.errors import (
    EnvironmentFailedError,
    EnvironmentLostError,
    HistoryFullError,
    OutsideCallError,
)

KINDS = pytest.mark.parametrize("name", [spec.name for spec in oracles.SPECS])
ASYNC = oracles.SPECS[0].name


@pytest.fixture(autouse=True)
def outside() -> oracles.Outside:
    vars(oracles.outside).update(vars(oracles.Outside()))
    return oracles.outside


def asking(*questions: str) -> dict[str, Any]:
    calls = [
        {"id": str(n), "function": {"name": "ask", "arguments": orjson.dumps({"about": about}).decode()}}
        for n, about in enumerate(questions)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


async def steps(host: Host, env_id: str, first_seq: int, *actions: Any) -> list[bytes]:
    return [
        (await await_maybe(host.step(env_id, action, seq))).to_json()
        for seq, action in enumerate(actions, start=first_seq)
    ]


async def started(cluster: Cluster, name: str, **arguments: Any) -> tuple[Host, str]:
    host = await cluster.host(specs=oracles.SPECS)
    env_id, _ = await await_maybe(host.create(CreateRequest(name, 1, arguments)))
    return host, env_id


async def taken_over(cluster: Cluster, env_id: str) -> Host:
    host = await cluster.host(specs=oracles.SPECS)
    assert host.recovery is not None
    await host.recovery.recover([env_id])
    return host


@KINDS
async def test_another_host_goes_on_and_asks_nobody_what_was_answered(
    cluster: Cluster, outside: oracles.Outside, name: str
) -> None:
    first, env_id = await started(cluster, name)
    last = (await steps(first, env_id, 0, asking("a", "b"), "no call", asking("c")))[-1]
    before = await inspection.trajectory(first, env_id)
    assert outside.asked == ["opening", "a", "b", "c"]
    second = await taken_over(cluster, env_id)
    assert outside.asked == ["opening", "a", "b", "c"]
    # The last step sent again is answered as it was.
    assert await steps(second, env_id, 2, asking("c")) == [last]
    assert await inspection.trajectory(second, env_id) == before
    await steps(second, env_id, 3, asking("d"))
    assert outside.asked == ["opening", "a", "b", "c", "d"]


@KINDS
async def test_a_call_that_fails_is_undone_without_asking_again(
    cluster: Cluster, outside: oracles.Outside, name: str
) -> None:
    host, env_id = await started(cluster, name)
    await steps(host, env_id, 0, asking("a"))
    with pytest.raises(EnvironmentFailedError):
        await steps(host, env_id, 1, asking("break"))
    (answer,) = await steps(host, env_id, 1, asking("b"))
    assert outside.asked == ["opening", "a", "break", "b"]
    assert orjson.loads(answer)["info"]["num_steps"] == 2


@KINDS
async def test_an_outside_that_is_away_fails_the_step_and_it_can_be_sent_again(
    cluster: Cluster, outside: oracles.Outside, name: str
) -> None:
    host, env_id = await started(cluster, name)
    outside.is_away = True
    with pytest.raises(OutsideCallError) as caught:
        await steps(host, env_id, 0, asking("a"))
    assert caught.value.retryable
    outside.is_away = False
    (answer,) = await steps(host, env_id, 0, asking("a"))
    assert orjson.loads(answer)["info"]["num_steps"] == 1


@KINDS
async def test_a_creation_or_reset_sent_again_to_another_host_asks_nobody(
    cluster: Cluster, outside: oracles.Outside, name: str
) -> None:
    first = await cluster.host(specs=oracles.SPECS)
    env_id = "000-" + "1" * 32
    request = CreateRequest(name, 1, env_id=env_id)
    _, begun = await await_maybe(first.create(request))
    second = await taken_over(cluster, env_id)
    assert (await await_maybe(second.create(request)))[1].observation == begun.observation
    assert outside.asked == ["opening"]
    reset = await await_maybe(second.reset(env_id, 5, operation=b"op"))
    third = await taken_over(cluster, env_id)
    assert (await await_maybe(third.reset(env_id, 5, operation=b"op"))).observation == reset.observation
    assert outside.asked == ["opening", "opening"]


async def test_what_was_answered_counts_as_history(cluster: Cluster) -> None:
    host = await cluster.host(specs=oracles.SPECS, max_kept_bytes=2000)
    env_id, _ = await await_maybe(host.create(CreateRequest(ASYNC, 1)))
    with pytest.raises(HistoryFullError):
        await steps(host, env_id, 0, *(asking("x" * 300) for _ in range(10)))


async def test_without_recorded_effects_it_is_lost_with_its_host(cluster: Cluster) -> None:
    first, env_id = await started(cluster, ASYNC, recorded=False)
    await steps(first, env_id, 0, asking("a"))
    assert first.recorder is not None
    await first.recorder.journal.flush()
    second = await taken_over(cluster, env_id)
    with pytest.raises(EnvironmentLostError):
        await steps(second, env_id, 1, asking("b"))


async def test_only_an_environment_that_nobody_goes_on_with_is_closed_for_good(
    cluster: Cluster, outside: oracles.Outside
) -> None:
    first, env_id = await started(cluster, ASYNC)
    await steps(first, env_id, 0, asking("a"))
    # One that was only played again, to be looked at.
    second = await taken_over(cluster, env_id)
    await inspection.trajectory(second, env_id)
    # One whose slot went elsewhere.
    first.env_table.evict_moved(env_id)
    await settled(first, second)
    assert set(outside.endings) == {"handed over"}
    await await_maybe(second.close(env_id))
    await settled(second)
    assert outside.endings.count("closed") == 1


async def settled(*hosts: Host) -> None:
    """Wait until environments that were let go are."""
    for host in hosts:
        await asyncio.gather(*host.executor.closing)
