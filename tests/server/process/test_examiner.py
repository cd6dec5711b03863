"""What a supervisor holds against calls when a worker ends, and whom it tells."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any, Literal

import pytest

from tests.waiting import eventually
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.engine.execution.under_way import CallRecord, UnderWay, read_record, shared_records
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.server.process.examiner import WorkerEnd, WorkerExaminer, end_of, is_stopped, judge
from verl_agent_env.wire.suspicions import CallId, Level, Suspicion, examined_key

A, B, C = (CallId(f"00{digit}-" + digit * 32, 0, 4) for digit in "abc")
KILLED_AFTER_S = 4.0
CRASH = WorkerEnd("crash", "SIGSEGV")
HANG = WorkerEnd("hang", "silent")
KILLED = WorkerEnd("killed", "SIGKILL")
NOBODY = os.getpid()


def held(**levels: Level) -> dict[str, Suspicion]:
    """Suspicions of the calls of these names."""
    calls = {"a": A, "b": B, "c": C}
    return {calls[name].env_id: Suspicion(*calls[name], level) for name, level in levels.items()}


def judged(
    end: WorkerEnd,
    inline: CallId | None = None,
    apart: tuple[CallId, ...] = (),
    known: Mapping[str, Suspicion] | None = None,
    unseen: int = 0,
) -> dict[CallId, Level]:
    return {each.call: each.level for each in judge(end, UnderWay(inline, apart, unseen), known or {})}


def test_the_only_call_under_way_ended_a_worker_that_crashed_or_hung() -> None:
    for end in (CRASH, HANG):
        assert judged(end, A) == judged(end, None, (A,)) == {A: "refused"}
        assert judged(end) == {}
    (found,) = judge(CRASH, UnderWay(A, (), 0), {})
    assert (found.call, found.cause) == (A, "SIGSEGV")


def test_what_the_loop_computed_is_to_blame_for_its_standing_still_whatever_threads_do() -> None:
    assert judged(HANG, A, (B, C), unseen=3) == {A: "refused"}
    assert judged(HANG, A, (B, C), held(b="alone")) == {A: "refused"}
    assert judged(CRASH, A, (B, C)) == {A: "alone", B: "alone", C: "alone"}


def test_of_several_calls_under_way_the_one_that_was_under_way_before_is_to_blame() -> None:
    assert judged(CRASH, None, (A, B)) == {A: "alone", B: "alone"}
    assert judged(CRASH, None, (A, B), held(b="alone")) == {B: "refused"}
    assert judged(CRASH, None, (A, B, C), held(a="alone", b="alone")) == {A: "alone", B: "alone", C: "alone"}


def test_nobody_is_blamed_for_certain_beside_calls_that_are_not_on_record() -> None:
    assert judged(CRASH, A, unseen=1) == {A: "alone"}


def test_one_end_from_outside_blames_nobody_and_a_second_one_who_was_there_again() -> None:
    assert judged(KILLED, A) == {A: "suspected"}
    assert judged(KILLED, A, (B,)) == {A: "suspected", B: "suspected"}
    assert judged(KILLED, A, (B,), held(b="suspected")) == {B: "refused"}
    assert judged(KILLED, A, (B, C), held(a="suspected", b="suspected")) == {
        A: "alone",
        B: "alone",
        C: "suspected",
    }


def test_who_was_there_when_somebody_killed_a_worker_is_not_to_blame_for_the_crash_of_another() -> None:
    assert judged(CRASH, None, (A, B), held(b="suspected")) == {A: "alone", B: "alone"}


def test_another_call_on_the_same_environment_was_not_there_before() -> None:
    known = {A.env_id: Suspicion(A.env_id, A.episode, A.seq + 1, "suspected")}
    assert judged(KILLED, A, (), known) == {A: "suspected"}


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        ("os._exit(3)", "crash", "code 3"),
        ("os._exit(0)", "crash", "code 0"),
        ("os.kill(os.getpid(), 11)", "crash", "SIGSEGV"),
        ("os.kill(os.getpid(), 6)", "crash", "SIGABRT"),
        ("os.kill(os.getpid(), 9)", "killed", "SIGKILL"),
        ("signal.signal(15, signal.SIG_DFL); os.kill(os.getpid(), 15)", "killed", "SIGTERM"),
    ],
)
def test_an_end_is_told_by_its_status(code: str, kind: str, cause: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", f"import os, signal; {code}"])
    status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait()
    assert end_of(status, was_silent=False).kind == kind
    assert cause in end_of(status, was_silent=False).cause
    assert end_of(status, was_silent=True).kind == "hang"
    assert end_of(None, was_silent=False).kind == "killed"


def test_a_stopped_process_is_told_from_one_that_runs() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: is_stopped(process.pid), what="a stop")
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)


class AwayStore(MemoryStore):
    """A store that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False

    async def suspect(self, suspicions: Collection[Suspicion], cleared: Collection[str] = ()) -> None:
        if self.is_away:
            raise StoreUnavailableError("", "away")
        await super().suspect(suspicions, cleared)


class Pool:
    """Records of two workers, and who examines them."""

    def __init__(self) -> None:
        self.store = AwayStore()
        memory = shared_records(2)
        self.memory = memory[1]
        self.record = CallRecord(memory[1])
        self._begun: list[Any] = []
        self.examiner = WorkerExaminer(memory, lambda: self.store, KILLED_AFTER_S)

    def begin(self, call: CallId, *, apart: bool = False) -> None:
        """Have a call under way that does not end."""
        entered = self.record.apart(call) if apart else self.record.inline(call)
        entered.__enter__()
        # Let go of, it would end.
        self._begun.append(entered)

    def end(self, end: WorkerEnd) -> bool:
        had_calls = self.examiner.ended(1, end)
        self.examiner.tell()
        return had_calls

    def told(self) -> dict[str, Level]:
        """What all workers are told."""
        cluster = asyncio.run(self.store.read_map())
        return {key: each.level for key, each in cluster.suspicions.items()}

    def inherited(self) -> dict[str, Level]:
        """What the next worker knows from its beginning."""
        return {each.key: each.level for each in self.examiner.known}


def test_the_end_of_a_worker_is_told_and_inherited_and_its_record_is_empty() -> None:
    pool = Pool()
    pool.begin(A)
    assert pool.end(CRASH)
    assert pool.told() == pool.inherited() == {A.env_id: "refused"}
    assert read_record(pool.memory) == UnderWay(None, (), 0)
    assert not pool.end(CRASH)


def test_an_idle_worker_may_end_as_it_likes() -> None:
    pool = Pool()
    with pool.record.inline(A), pool.record.apart(B):
        pass
    version = asyncio.run(pool.store.map_version())
    assert not pool.end(CRASH)
    assert asyncio.run(pool.store.map_version()) == version


def test_what_other_supervisors_found_counts() -> None:
    pool = Pool()
    asyncio.run(pool.store.suspect([Suspicion(*B, "alone")]))
    pool.begin(A, apart=True)
    pool.begin(B, apart=True)
    pool.end(CRASH)
    assert pool.told() == {B.env_id: "refused"}


def test_what_the_store_does_not_take_is_inherited_at_once_and_told_later() -> None:
    pool = Pool()
    pool.store.is_away = True
    pool.begin(A)
    pool.end(CRASH)
    assert (pool.told(), pool.inherited()) == ({}, {A.env_id: "refused"})
    pool.examiner.tell()
    pool.store.is_away = False
    pool.examiner.tell()
    assert pool.told() == {A.env_id: "refused"}


def test_a_silent_worker_is_examined_from_half_its_time_on_until_it_is_heard_of() -> None:
    pool = Pool()
    pool.begin(A)
    pool.begin(B, apart=True)
    pool.examiner.look(1, NOBODY, 0.5 * KILLED_AFTER_S)
    pool.examiner.tell()
    assert pool.told() == {}
    for silent_s in (0.6, 0.9):
        pool.examiner.look(1, NOBODY, silent_s * KILLED_AFTER_S)
        pool.examiner.tell()
        assert pool.told() == {examined_key(A.env_id): "examined"}
        assert pool.inherited() == {}
    pool.examiner.look(1, NOBODY, 0.0)
    pool.examiner.tell()
    assert pool.told() == {}


def test_a_worker_that_was_silent_over_a_call_to_its_end_hung_over_it() -> None:
    pool = Pool()
    pool.begin(A)
    pool.examiner.look(1, NOBODY, 0.6 * KILLED_AFTER_S)
    pool.end(HANG)
    assert pool.told() == {A.env_id: "refused"}


@pytest.mark.parametrize("why", ["stopped", "slow"])
def test_a_worker_that_was_stopped_or_only_slow_hung_over_nothing(why: Literal["stopped", "slow"]) -> None:
    pool = Pool()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        pool.begin(A)
        if why == "stopped":
            process.send_signal(signal.SIGSTOP)
            eventually(lambda: is_stopped(process.pid), what="a stop")
        pool.examiner.look(1, process.pid, 0.6 * KILLED_AFTER_S)
        if why == "slow":
            # Another call by now.
            pool.begin(B)
        pool.end(HANG)
    finally:
        process.kill()
        process.wait()
    assert pool.told() == {(A if why == "stopped" else B).env_id: "suspected"}
