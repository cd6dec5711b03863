"""Looking at live environments."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.engine.awaiting import ask
from tests.engine.conftest import KINDS, FakeClock
from tests.engine.probes import Controls
from tests.steered import pass_time
from tests.waiting import NEVER_S, until
from verl_agent_env.engine import CreateRequest, Host, await_maybe, inspection
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentFailedError,
    EnvironmentLostError,
    EnvironmentNotFoundError,
    EnvironmentTimeoutError,
    RenderModeError,
)

REPLAYED = ["inline", "thread", "async"]

Create = Callable[..., Any]


async def trajectory(host: Host, env_id: str) -> Any:
    return orjson.loads(await inspection.trajectory(host, env_id))


@pytest.mark.parametrize("kind", KINDS)
async def test_description_tells_where_it_stands(
    host: Host, create: Create, clock: FakeClock, kind: str
) -> None:
    env_id = await create(host, kind, seed=5, run_id="run", ttl_s=60.0)
    clock.now += 3.0
    await await_maybe(host.step(env_id, "end", 0))
    clock.now += 2.0
    assert inspection.describe(host, env_id) == {
        "env_id": env_id,
        "env_name": f"probe/{kind}-v0",
        "owner": "local",
        "episode": 0,
        "seed": 5,
        "seq": 1,
        "ended": True,
        "lost": None,
        "run_id": "run",
        "age_s": 5.0,
        "idle_s": 2.0,
        "ttl_s": 60.0,
    }


async def test_description_does_not_count_as_use(host: Host, create: Create, clock: FakeClock) -> None:
    env_id = await create(host, "inline", ttl_s=10.0)
    clock.now += 9.0
    inspection.describe(host, env_id)
    clock.now += 2.0
    assert await host.reap() == 1
    with pytest.raises(EnvironmentClosedError):
        inspection.describe(host, env_id)


async def test_lost_environment_says_why(host: Host, create: Create) -> None:
    env_id = await create(host, "live")
    with pytest.raises(EnvironmentLostError):
        await await_maybe(host.step(env_id, "raise"))
    assert "ValueError" in str(inspection.describe(host, env_id)["lost"])


# --- trajectory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_trajectory_is_what_was_answered(
    host: Host, create: Create, controls: Controls, kind: str
) -> None:
    env_id = await create(host, kind, seed=1)
    await await_maybe(host.step(env_id, "1", 0))
    begin = await await_maybe(host.reset(env_id, 20))
    answers = [await await_maybe(host.step(env_id, action, i)) for i, action in enumerate(["1", "2", "end"])]
    found = await trajectory(host, env_id)
    assert (found["env_id"], found["env_name"]) == (env_id, f"probe/{kind}-v0")
    assert (found["episode"], found["seed"], found["complete"]) == (1, 20, True)
    assert found["observation"] == orjson.loads(begin.observation)
    assert found["info"] == orjson.loads(begin.info)
    expected = [
        {"seq": i, "action": action, **orjson.loads(answer.to_json())}
        for i, (action, answer) in enumerate(zip(["1", "2", "end"], answers, strict=True))
    ]
    assert found["steps"] == expected
    await host.stop()
    # The copy that was played again is closed as well.
    assert controls.counts["build"] == controls.counts["close"]


@pytest.mark.parametrize("kind", KINDS)
async def test_trajectory_beyond_the_kept_history_is_incomplete(
    make_host: Callable[..., Host], create: Create, kind: str
) -> None:
    host = make_host(max_journal_bytes=60)
    env_id = await create(host, kind)
    for seq in range(21):
        await await_maybe(host.step(env_id, "1", seq))
    found = await trajectory(host, env_id)
    assert (found["complete"], found["steps"]) == (False, [])
    await await_maybe(host.reset(env_id))
    assert (await trajectory(host, env_id))["complete"] is True


@pytest.mark.parametrize("kind", REPLAYED)
async def test_trajectory_leaves_the_environment_alone(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind, seed=0)
    await await_maybe(host.step(env_id, "1", 0))
    await trajectory(host, env_id)
    assert orjson.loads((await await_maybe(host.step(env_id, "2", 1))).info) == {"total": 3}


@pytest.mark.parametrize("kind", REPLAYED)
async def test_trajectory_that_cannot_be_played_is_a_failure_of_the_call_only(
    host: Host, create: Create, controls: Controls, kind: str
) -> None:
    env_id = await create(host, kind, seed=0)
    await await_maybe(host.step(env_id, "1", 0))
    controls.broken = {"1"}
    with pytest.raises(EnvironmentFailedError):
        await trajectory(host, env_id)
    controls.broken = set()
    await await_maybe(host.step(env_id, "2", 1))


async def test_trajectory_does_not_wait_for_a_step(
    host: Host, create: Create, controls: Controls, begun: Create
) -> None:
    env_id = await create(host, "thread", seed=0)
    await await_maybe(host.step(env_id, "1", 0))
    step = asyncio.create_task(ask(host.step, env_id, "wait", 1))
    await begun()
    assert len((await trajectory(host, env_id))["steps"]) == 1
    controls.gate.set()
    await step


async def test_trajectory_of_none_is_not_found(host: Host) -> None:
    with pytest.raises(EnvironmentNotFoundError):
        await trajectory(host, "000-none")


# --- reading and drawing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_read_sees_the_environment(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind, seed=4)
    await await_maybe(host.step(env_id, "3"))
    assert await inspection.read_env(host, env_id, lambda env: env.total) == 7


@pytest.mark.parametrize("kind", REPLAYED)
async def test_read_brings_a_failed_environment_back(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind, seed=4)
    await await_maybe(host.step(env_id, "3", 0))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 1))
    assert await inspection.read_env(host, env_id, lambda env: env.total) == 7


@pytest.mark.parametrize("kind", REPLAYED)
async def test_read_that_raises_changes_nothing(
    host: Host, create: Create, controls: Controls, kind: str
) -> None:
    env_id = await create(host, kind)
    with pytest.raises(EnvironmentFailedError) as caught:
        await inspection.read_env(host, env_id, lambda env: env.no_such_thing)
    assert caught.value.error == "AttributeError"
    await await_maybe(host.step(env_id, "1", 0))
    assert controls.counts["build"] == 1


async def test_read_that_hangs_costs_the_environment_only(
    make_host: Callable[..., Host], create: Create, controls: Controls
) -> None:
    host = make_host(max_step_s=100.0)
    env_id = await create(host, "thread", seed=2)
    begun = threading.Event()

    def hang(_: Any) -> None:
        begun.set()
        controls.gate.wait(NEVER_S)

    reading = asyncio.create_task(inspection.read_env(host, env_id, hang))
    await until(begun.is_set)
    await pass_time(100.0)
    with pytest.raises(EnvironmentTimeoutError):
        await reading
    await await_maybe(host.step(env_id, "1", 0))
    assert controls.overlaps == 0
    assert controls.counts["build"] == 2


async def test_read_waits_for_the_step_under_way(
    host: Host, create: Create, controls: Controls, begun: Create
) -> None:
    env_id = await create(host, "thread")
    step = asyncio.create_task(ask(host.step, env_id, "wait"))
    await begun()
    read = asyncio.create_task(inspection.read_env(host, env_id, lambda env: env.busy))
    await asyncio.sleep(0.01)
    assert not read.done()
    controls.gate.set()
    await step
    assert await read is False


@pytest.mark.parametrize(("mode", "start"), [("ansi", b"P"), ("svg", b"<svg"), ("png", b"\x89PNG")])
async def test_lake_is_drawn(host: Host, mode: str, start: bytes) -> None:
    env_id, _ = await await_maybe(host.create(CreateRequest("frozen_lake", 1, {"map_name": "4x4"})))
    assert (await inspection.render(host, env_id, mode)).startswith(start)


@pytest.mark.parametrize("kind", KINDS)
async def test_environment_that_does_not_draw_says_so(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind)
    with pytest.raises(RenderModeError) as caught:
        await inspection.render(host, env_id, "ansi")
    assert caught.value.supported == []
    assert not host.faults


async def test_unknown_mode_is_refused_with_the_known_ones(host: Host, create: Create) -> None:
    with pytest.raises(RenderModeError) as caught:
        await inspection.render(host, await create(host, "inline"), "hologram")
    assert caught.value.supported == ["ansi", "svg", "png"]
