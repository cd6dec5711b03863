"""What is under way stands where another process can read it, and nowhere else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import pytest

from tests.engine.awaiting import ask
from tests.waiting import HANG_S, NEVER_S, until
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.execution.under_way import (
    RECORD_BYTES,
    CallRecord,
    UnderWay,
    calling,
    clear_record,
    current_call,
    read_record,
    shared_records,
)
from verl_agent_env.envs.registry import EnvSpec, Registry
from verl_agent_env.errors import EnvironmentEndedWorkerError, EnvironmentFailedError
from verl_agent_env.wire.suspicions import BEGINNING, CallId, Suspicion, Suspicions

CALL = CallId("00a-" + "1" * 32, 2, 3)
NOTHING = UnderWay(None, (), 0)
seen: list[Any] = []
look: list[Callable[[], Any]] = []


class WatchedEnv(gymnasium.Env[Any, Any]):
    """Notes what is on record while its code runs; raises an error when it is told to."""

    execution: ClassVar[str] = "inline"
    deterministic: ClassVar[bool] = True

    def __init__(self) -> None:
        self.action_space = self.observation_space = gymnasium.spaces.Text(1000)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        seen.append(look[-1]())
        return [{"role": "user", "content": "?"}], {}

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        seen.append(look[-1]())
        if action == "raise":
            raise RuntimeError("as it was told")
        return [{"role": "user", "content": "?"}], 0.0, False, False, {}


class WatchedThreadEnv(WatchedEnv):
    execution: ClassVar[str] = "thread"


class GatedEnv(WatchedEnv):
    """Its steps wait for :attr:`gate`."""

    execution: ClassVar[str] = "thread"
    gate = threading.Event()
    running: ClassVar[set[int]] = set()
    most: ClassVar[int] = 0

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        self.running.add(id(self))
        type(self).most = max(self.most, len(self.running))
        self.gate.wait(HANG_S)
        self.running.discard(id(self))
        return super().step(action)


def host_of(env: type[WatchedEnv], record: CallRecord, suspicions: Suspicions | None = None) -> Host:
    registry = Registry({"x/y-v0": EnvSpec("x/y-v0", f"{__name__}:{env.__name__}")})
    return Host(registry, HostLimits(max_step_s=NEVER_S), record=record, suspicions=suspicions)


@pytest.fixture
def memory() -> memoryview:
    """The second of two records; the first one stays empty."""
    first, second = shared_records(2)
    seen.clear()
    look.append(lambda: (read_record(second), read_record(first)))
    return second


def test_each_record_has_memory_of_its_own(memory: memoryview) -> None:
    record = CallRecord(memory)
    with record.inline(CALL), record.apart(CALL), record.apart(CALL):
        assert look[-1]() == (UnderWay(CALL, (CALL, CALL), 0), NOTHING)
        assert len(read_record(memory).calls) == 3
    assert look[-1]() == (NOTHING, NOTHING)


def test_a_new_worker_and_one_that_ended_have_nothing_on_record(memory: memoryview) -> None:
    memory[:] = b"\xff" * RECORD_BYTES
    CallRecord(memory)
    assert read_record(memory) == NOTHING
    memory[:] = b"\xff" * RECORD_BYTES
    clear_record(memory)
    assert read_record(memory) == NOTHING


def test_calls_beyond_the_entries_are_counted(memory: memoryview) -> None:
    record = CallRecord(memory)
    entered = [record.apart(CALL) for _ in range(300)]
    for each in entered:
        each.__enter__()
    assert (len(read_record(memory).apart), read_record(memory).unseen) == (255, 45)
    for each in entered:
        each.__exit__(None, None, None)
    assert read_record(memory) == NOTHING


def test_without_memory_nothing_is_written_and_functions_stay_what_they_are() -> None:
    record = CallRecord()
    assert record.note_inline is None
    with record.inline(CALL), record.apart(CALL):
        assert record.noting(CALL, look.clear) == look.clear


def test_the_call_of_a_task_is_what_it_was_afterwards() -> None:
    with calling(CALL), calling(CALL._replace(seq=9)):
        assert current_call.get() == CALL._replace(seq=9)
    assert current_call.get() is None


@pytest.mark.parametrize("env", [WatchedEnv, WatchedThreadEnv])
async def test_making_stepping_and_resetting_are_on_record_while_they_run(
    memory: memoryview, env: type[WatchedEnv]
) -> None:
    host = host_of(env, CallRecord(memory))
    env_id, _ = await await_maybe(host.create(CreateRequest("x/y-v0")))
    await await_maybe(host.step(env_id, "a", 0))
    await await_maybe(host.step(env_id, "b", 1))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 2))
    assert read_record(memory) == NOTHING
    await await_maybe(host.reset(env_id, 1))
    await await_maybe(host.read(env_id, lambda _: seen.append(look[-1]())))
    calls = [(0, BEGINNING), (0, 0), (0, 1), (0, 2), (1, BEGINNING), (1, 0)]
    assert [found.calls for found, _ in seen] == [(CallId(env_id, *call),) for call in calls]
    assert {found.inline is not None for found, _ in seen} == {env is WatchedEnv}
    assert {other for _, other in seen} == {NOTHING}
    assert read_record(memory) == NOTHING
    await host.stop()


async def test_calls_that_may_have_ended_a_worker_run_one_at_a_time_and_beside_all_others(
    memory: memoryview,
) -> None:
    suspicions = Suspicions()
    host = host_of(GatedEnv, CallRecord(memory), suspicions)
    env_ids = [(await await_maybe(host.create(CreateRequest("x/y-v0"))))[0] for _ in range(5)]
    suspected = [Suspicion(env_id, 0, 0, "alone") for env_id in env_ids[:3]]
    suspicions.replace({each.key: each for each in suspected})
    GatedEnv.most = 0
    steps = [asyncio.create_task(ask(host.step, env_id, "a", 0)) for env_id in env_ids]
    await until(lambda: len(GatedEnv.running) >= 3, "one of three, and two others")
    await asyncio.sleep(0.1)
    assert len(read_record(memory).apart) == 3
    assert len({call.env_id for call in read_record(memory).apart} & set(env_ids[:3])) == 1
    GatedEnv.gate.set()
    await asyncio.gather(*steps)
    assert GatedEnv.most == 3
    await host.stop()


async def test_what_is_refused_runs_no_code_and_can_be_closed(memory: memoryview) -> None:
    host = host_of(WatchedEnv, CallRecord(memory))
    env_id, _ = await await_maybe(host.create(CreateRequest("x/y-v0")))
    refused = Suspicion(env_id, 0, 0, "refused", "SIGSEGV")
    host.update_suspicions({refused.key: refused})
    seen.clear()
    for call in (ask(host.step, env_id, "a", 0), ask(host.reset, env_id), ask(host.read, env_id, str)):
        with pytest.raises(EnvironmentEndedWorkerError) as caught:
            await call
        assert caught.value.env_id == env_id
    assert seen == []
    await await_maybe(host.close(env_id))
    await host.stop()


async def test_an_environment_whose_making_ended_a_worker_is_not_made_under_its_id() -> None:
    env_id = "00a-" + "1" * 32
    host = host_of(WatchedEnv, CallRecord(), Suspicions([Suspicion(env_id, 0, BEGINNING, "refused")]))
    wanted = CreateRequest("x/y-v0", env_id=env_id)
    with pytest.raises(EnvironmentEndedWorkerError):
        await await_maybe(host.create(wanted))
    with pytest.raises(EnvironmentEndedWorkerError):
        host.create(wanted)
    with pytest.raises(EnvironmentEndedWorkerError):
        await await_maybe(host.step(env_id, "a"))
    await await_maybe(host.close(env_id))
    await host.stop()
