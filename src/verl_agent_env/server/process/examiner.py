"""Finds out which call ended a worker, and has all workers know it before they are asked for the same call again.

Part of a pool's supervisor, which outlives its workers. What was under way is written in memory that it shares with them
(:mod:`~verl_agent_env.engine.execution.under_way`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from verl_agent_env.cluster.store import Store
from verl_agent_env.engine.execution.under_way import UnderWay, clear_record, read_record
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire.suspicions import CallId, Level, Suspicion

logger = logging.getLogger(__name__)

_FROM_OUTSIDE = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGSTOP}
)
_EXAMINED_FOR = 4
"""An examination whose supervisor has ended holds so many times the time after which a
silent worker is killed."""


class WorkerEnd(NamedTuple):
    """Cause of the end of a worker's process."""

    kind: Literal["crash", "hang", "killed"]
    """By its own doing; killed by its supervisor because it was silent; or by somebody else, who may be the kernel."""
    cause: str
    """The same for people."""


def end_of(status: Any, *, was_silent: bool) -> WorkerEnd:
    """Tell how a process ended.

    Args:
        status: What ``os.waitid`` gave; None if that is not known.
        was_silent: Whether its supervisor has killed it.
    """
    if was_silent:
        return WorkerEnd("hang", "it gave no sign of life for too long")
    if status is None:
        return WorkerEnd("killed", "it is not known how it ended")
    if status.si_code == os.CLD_EXITED:
        return WorkerEnd("crash", f"it exited with code {status.si_status}")
    try:
        name = signal.Signals(status.si_status).name
    except ValueError:
        name = f"signal {status.si_status}"
    return WorkerEnd("killed" if status.si_status in _FROM_OUTSIDE else "crash", name)


def judge(end: WorkerEnd, under_way: UnderWay, known: Mapping[str, Suspicion]) -> list[Suspicion]:
    """Decide what to hold against the calls that were under way when a worker ended.

    One that was alone under way when its worker crashed or hung has ended it. So has the only one that was under way at an
    earlier end as well; where a worker crashed, ends from outside do not count as such. All others are suspected only.

    Args:
        end: How the worker ended.
        under_way: What the worker was at.
        known: What is held against calls by now, by key.
    """
    # What blocks the loop is what the loop computes.
    is_blocked = end.kind == "hang" and under_way.inline is not None
    calls = under_way.calls[:1] if is_blocked else under_way.calls
    is_alone = len(calls) == 1 and (is_blocked or not under_way.unseen)
    counting = {"alone", "suspected"} if end.kind == "killed" or is_alone else {"alone"}
    again = [call for call in calls if _holds(known.get(call.env_id), call, counting)]
    if len(again) == 1:
        return [_suspicion(again[0], "refused", end)]
    if end.kind == "killed":
        return [_suspicion(call, "alone" if call in again else "suspected", end) for call in calls]
    return [_suspicion(call, "refused" if is_alone else "alone", end) for call in calls]


def _holds(known: Suspicion | None, call: CallId, levels: set[str]) -> bool:
    return known is not None and known.call == call and known.level in levels


def _suspicion(call: CallId, level: Level, end: WorkerEnd) -> Suspicion:
    return Suspicion(*call, level, end.cause)


@dataclass
class _Examination:
    """Of a worker that is silent."""

    under_way: UnderWay
    told: list[Suspicion]
    was_stopped: bool
    """Whether somebody had stopped the process, which is no call's doing."""


@dataclass(frozen=True)
class _Finding:
    """Result of an examination, still to be written to the store."""

    end: WorkerEnd | None
    """None: the worker runs, and so far it is only silent."""
    under_way: UnderWay
    examined: tuple[Suspicion, ...] = ()
    cleared: tuple[str, ...] = ()


class WorkerExaminer:
    """Watches the workers of one pool for their supervisor."""

    def __init__(
        self, records: Sequence[memoryview], open_store: Callable[[], Store], killed_after_s: float
    ) -> None:
        """Know nothing yet.

        Args:
            records: Of each worker, by index.
            open_store: Connects to where all workers read what is known; closed after each use.
            killed_after_s: How long a worker may be silent.
        """
        self._records = records
        self._open_store = open_store
        self._killed_after_s = killed_after_s
        self._examinations: dict[int, _Examination] = {}
        self._untold: list[_Finding] = []
        self._trouble = ""
        self._known: dict[str, Suspicion] = {}

    @property
    def known(self) -> list[Suspicion]:
        """Suspicions so far, which the next workers inherit even if the store is away."""
        return list(self._known.values())

    def look(self, index: int, pid: int, silent_s: float) -> None:
        """Take notice of a worker that runs.

        A cluster gives its slots away about when its supervisor kills it. So what it is at is examined from half that time
        on, and begun nowhere until it is known whether the worker hangs over it.

        Args:
            index: Which one.
            pid: Its process.
            silent_s: How long it has given no sign of life.
        """
        examination = self._examinations.get(index)
        if silent_s <= self._killed_after_s / 2:
            if examination is not None:
                del self._examinations[index]
                self._clear(examination)
            return
        if examination is not None:
            examination.was_stopped |= is_stopped(pid)
            return
        under_way = read_record(self._records[index])
        calls = (under_way.inline,) if under_way.inline is not None else under_way.apart
        lasts_s = _EXAMINED_FOR * self._killed_after_s
        told = [Suspicion(*call, "examined", "its worker is silent", lasts_s) for call in calls]
        self._examinations[index] = _Examination(under_way, told, is_stopped(pid))
        if told:
            self._untold.append(_Finding(None, under_way, tuple(told)))

    def ended(self, index: int, end: WorkerEnd) -> bool:
        """Take notice of the end of a worker; gives whether calls were under way."""
        under_way = read_record(self._records[index])
        clear_record(self._records[index])
        examination = self._examinations.pop(index, None)
        cleared: tuple[str, ...] = ()
        if examination is not None:
            cleared = tuple(suspicion.key for suspicion in examination.told)
            if end.kind == "hang" and (
                examination.was_stopped or examination.under_way.inline != under_way.inline
            ):
                end = WorkerEnd("killed", "it was stopped, or too slow, and then killed")
        if under_way.calls or cleared:
            self._untold.append(_Finding(end, under_way, cleared=cleared))
            self._known |= {found.key: found for found in judge(end, under_way, self._known)}
        return bool(under_way.calls)

    def tell(self) -> None:
        """Have all workers know what was found, before the next one is started; what the store does not take is told later."""
        if not self._untold:
            return
        try:
            asyncio.run(self._tell())
        except StoreUnavailableError as away:
            if away.code != self._trouble:
                logger.warning(
                    "telling the cluster what ended a worker failed; retrying", extra={"detail": away.detail}
                )
            self._trouble = away.code
        else:
            self._trouble = ""

    async def _tell(self) -> None:
        store = self._open_store()
        try:
            while self._untold:
                finding = self._untold[0]
                found = list(finding.examined)
                if finding.end is not None:
                    found = judge(finding.end, finding.under_way, (await store.read_map()).suspicions)
                await store.suspect(found, finding.cleared)
                del self._untold[0]
                self._known |= {each.key: each for each in found if each.level != "examined"}
                _log(found)
        finally:
            await store.aclose()

    def _clear(self, examination: _Examination) -> None:
        cleared = tuple(suspicion.key for suspicion in examination.told)
        if cleared:
            self._untold.append(_Finding(None, UnderWay(None, (), 0), cleared=cleared))


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped; False where the system does not say."""
    try:
        # The name, which may hold anything, is in parentheses before the state (proc(5)).
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def _log(found: Sequence[Suspicion]) -> None:
    for suspicion in found:
        about = {"env_id": suspicion.env_id, "episode": suspicion.episode, "seq": suspicion.seq}
        if suspicion.level == "refused":
            logger.error(
                "call ended its worker; its environment is refused",
                extra=about | {"cause": suspicion.cause},
            )
        else:
            logger.warning(
                "call is suspected to end its worker",
                extra=about | {"suspicion": suspicion.level, "cause": suspicion.cause},
            )
