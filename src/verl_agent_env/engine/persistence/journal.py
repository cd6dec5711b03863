"""Group commit: what happens to environments is written in groups, one at a time, and answered when it is written.

A write waits for nothing but the group that is on its way: whatever arrives meanwhile goes together in the next one.
What cannot be written at present holds up nothing else: writes of a slot whose owner is not known wait by themselves,
and so do environments that have to be re-persisted as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from verl_agent_env import waits
from verl_agent_env.engine.group_commit.groups import Group, OnEnd
from verl_agent_env.engine.group_commit.packing import LIMITS, size_of
from verl_agent_env.engine.persistence.deadlines import Deadlines
from verl_agent_env.engine.persistence.repersisting import LOST, Recorded, RepersistQueue
from verl_agent_env.engine.persistence.slot_ownership import SlotOwnership
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    GenerationChangedError,
    MovedError,
    StoreFullError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.histogram import Histogram
from verl_agent_env.types import slot_of
from verl_agent_env.wire.event_log import EventLog
from verl_agent_env.wire.records import Refusal, RefusalReason, Write

logger = logging.getLogger(__name__)

_RETRY_S = 0.1
_FILL_S = 0.05
"""A call of the log costs as much as some dozens of writes."""
_MAX_BACKLOG_BYTES = 64 * 1024 * 1024
_OVERTAKING = ("close", "create")
_PROMPT = (*_OVERTAKING, "begin")
"""Writes that go at once, also where nobody waits for them: what becomes of an environment is said by them."""


class Journal:
    """Writes to the log of one worker.

    What the store lost is written again from memory. Writes outlive the patience of those who wait for them: they are
    made when the store is back, unless the slot was another worker's meanwhile.
    """

    def __init__(
        self,
        log: EventLog,
        ownership: SlotOwnership,
        recorded: Recorded,
        *,
        patience_s: float = waits.STORE_S,
        fill_s: float = _FILL_S,
    ) -> None:
        """Make a journal that writes nothing until :meth:`run`.

        Args:
            log: Where to write.
            ownership: The slots that may be written.
            recorded: The environments.
            patience_s: How long anybody waits for a write, from the moment at which the waiting begins.
            fill_s: How long a group fills that nobody waits for.
        """
        self._log = log
        self._ownership = ownership
        self._recorded = recorded
        self._patience_s = patience_s
        self._fill_s = fill_s
        self._queue: deque[Group] = deque()
        self._in_flight: list[Group] = []
        self._parked: dict[int, Group] = {}
        """Writes of slots of which it is not known whose they are."""
        self._proven: dict[int, tuple[str, str]] = {}
        """Data set and token that each slot had when this worker wrote last while it owned it: while the owner is not known, it
        may turn out to be the same."""
        self._proven_by: Mapping[int, str] | None = None
        """Tokens that :attr:`_proven` has already."""
        self._to_repersist = RepersistQueue(
            ownership, recorded, self._wake_up, self._written_groups, self._reject
        )
        self._wake = asyncio.Event()
        """Set when there is something to write."""
        self._due = asyncio.Event()
        """Set when somebody waits for it, or it fills a group."""
        self._trouble: StoreUnavailableError | None = None
        self._is_full = False
        self._deadlines = Deadlines(self._waited_for, self._lateness, self._due.set)
        self.written = 0
        """Writes made."""
        self.groups = 0
        """Calls of the log."""
        self.write_s = Histogram()
        """Durations of these calls, in seconds."""

    @property
    def parts(self) -> Sequence[Journal]:
        """The journals of all logs: this one alone."""
        return (self,)

    def of(self, slot: int) -> Journal:
        """Return the journal that writes a slot: this one."""
        return self

    @property
    def is_away(self) -> bool:
        """True while the log takes no writes, not even the ends of environments."""
        return self._trouble is not None and not isinstance(self._trouble, StoreFullError)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait to be written."""
        return sum(group.size for group in self._queue)

    # --- who writes -----------------------------------------------------------------------------------------

    def write(self, write: Write) -> Group:
        """Put a write in the queue; returns the group that it goes with."""
        slot, kind, queue = write.slot, write.kind, self._queue
        overtakes = kind in _OVERTAKING
        generation = self._ownership.generation
        held: Mapping[int, str | None] = self._ownership.tokens
        if slot not in held:
            # In a store that was emptied, slots have no owners yet: what is written now goes on from the data set before.
            generation, token = self._proven.get(slot, ("", None))
            held = {slot: token}
        group = self._parked.get(slot) if self._parked else None
        if group is None or group.held[slot] != held[slot]:
            group = queue[-1] if queue else None
            if (
                group is None
                or group.overtakes != overtakes
                # What waits there may be of a time before the slot was another worker's.
                or (group.held is not held and (group.generation != generation or group.held != held))
                or group.is_full
            ):
                if queue:
                    # The group before this one takes nothing any more.
                    self._due.set()
                group = Group(generation, held)
                queue.append(group)
        group.add(write)
        if overtakes:
            group.overtakes = True
        self._wake.set()
        if kind in _PROMPT:
            self._due.set()
        return group

    def repersist(self, env_ids: Iterable[str]) -> None:
        """State these environments again as a whole, a few at a time, besides everything else."""
        self._to_repersist.add(env_ids)

    def _wake_up(self) -> None:
        """Have the writing go on: there is something to write, and nothing to wait for."""
        self._wake.set()
        self._due.set()

    # --- who waits ------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """Until when whoever begins to wait now waits for a write, as a time of the event loop's clock."""
        return asyncio.get_running_loop().time() + self._patience_s

    def call_at_end(self, group: Group, deadline: float, on_end: OnEnd) -> None:
        """Have ``on_end`` called at the end of a group, or at the deadline."""
        self._deadlines.call_at_end(group, deadline, on_end)

    async def settle_all(
        self, waiting: Mapping[Group, Sequence[tuple[int, str]]]
    ) -> dict[int, VerlAgentEnvError]:
        """Wait for the writes of many environments side by side; see :class:`~verl_agent_env.engine.group_commit.pending.PendingAnswer`.

        Args:
            waiting: By the group that they wait for: a number for each, and its environment.

        Returns:
            The errors of those that have one, by their numbers.
        """
        deadline = self.deadline()
        errors: dict[int, VerlAgentEnvError] = {}
        while waiting:
            later: dict[Group, list[tuple[int, str]]] = {}
            for group, items in waiting.items():
                try:
                    if not group.is_done:
                        await self._deadlines.end_of(group, deadline)
                except StoreUnavailableError as late:
                    errors |= dict.fromkeys((number for number, _ in items), late)
                    continue
                for number, env_id in items if group.errors or group.later else ():
                    if env_id in group.errors:
                        errors[number] = group.errors[env_id]
                    elif env_id in group.later:
                        later.setdefault(group.later[env_id], []).append((number, env_id))
            waiting = later
        return errors

    async def flush(self, slots: Collection[int] | None = None, *, patience_s: float | None = None) -> None:
        """Return when nothing is left to write, in these slots if any are given.

        Raises:
            StoreUnavailableError: Something is left when patience ends.
        """
        deadline = asyncio.get_running_loop().time() + (patience_s or self._patience_s)
        while pending := self._pending(slots):
            for group in pending:
                if not group.is_done:
                    await self._deadlines.end_of(group, deadline)

    def slots_pending(self) -> set[int]:
        """The slots in which something is left to write."""
        return self._to_repersist.slots().union(*(group.slots() for group in self._written_groups()))

    def _pending(self, slots: Collection[int] | None) -> list[Group]:
        """The groups in which something is left to write of these slots, those included that nobody waited for yet."""
        written = (
            group for group in self._written_groups() if slots is None or not group.slots().isdisjoint(slots)
        )
        return [*written, *self._to_repersist.groups_of(slots)]

    def _written_groups(self) -> Iterator[Group]:
        return itertools.chain(self._in_flight, self._queue, self._parked.values())

    def _waited_for(self) -> Iterator[Group]:
        """All groups that somebody may wait for."""
        return itertools.chain(self._written_groups(), self._to_repersist.waited_for())

    def _lateness(self) -> StoreUnavailableError:
        """Return the error for waiters whose deadline has passed."""
        trouble = self._trouble or StoreUnavailableError("", "no worker may write to the slot at present")
        return type(trouble)(
            trouble.store, f"{trouble.reason}, for {self._patience_s:g} s", may_have_run=True
        )

    # --- the writing ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write, until cancelled; what was not written then is written when it runs again."""
        while True:
            if not (self._queue or self._parked or self._to_repersist):
                self._wake.clear()
                await self._wake.wait()
            await self._let_fill()
            try:
                has_written = await self._write_some()
                has_repersisted = await self._repersist_some()
            except (StoreUnavailableError, GenerationChangedError) as trouble:
                if isinstance(trouble, GenerationChangedError):
                    self._ownership.was_refused()
                self._note(trouble)
            else:
                if not (has_written or has_repersisted or self._is_full):
                    await self._pause()
                    continue
                self._note(StoreFullError() if self._is_full else None)
            if self._trouble is not None:
                self._shed()
                await asyncio.sleep(_RETRY_S)

    async def _let_fill(self) -> None:
        """Wait a moment for more to be written with what is in the queue, unless somebody waits for that already."""
        if not (self._due.is_set() or self._parked or self._to_repersist):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._fill_s):
                    await self._due.wait()
        self._due.clear()

    def _shed(self) -> None:
        """While nothing can be written, forget writes that nobody waits for once there are too many of them.

        Their environments are re-persisted instead, from what is in memory anyway.
        """
        if self.backlog_bytes <= _MAX_BACKLOG_BYTES:
            return
        for group in self._queue:
            kept = []
            for write in group.writes:
                if write.kind == "close" or not self._recorded.answers_early(write.env_id):
                    kept.append(write)
                else:
                    self._to_repersist.add([write.env_id])
            group.writes = kept
            group.size = sum(len(write.data) for write in kept)

    async def _pause(self) -> None:
        """Wait until slots have found their owners, or something else is to be written."""
        self._wake.clear()
        try:
            async with asyncio.timeout(_RETRY_S):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _write_some(self) -> bool:
        """Make the writes that have waited longest, in one call; returns whether any were made."""
        self._unpark()
        tokens = self._ownership.tokens
        groups = self._in_flight = self._take()
        try:
            for group in groups:
                self._sort(group, tokens)
            attempts = [self._attempt(group) for group in groups]
            writes = [write for attempt in attempts for write in attempt]
            if writes:
                self._note_refusals(groups, attempts, await self._made(tokens, writes), tokens)
            return bool(writes)
        except GenerationChangedError:
            # The slots are claimed anew, in the new data set; what was in the old one is re-persisted there.
            for group in groups:
                group.writes = [
                    write for write in group.writes if not self._to_repersist.replace_write(write, group)
                ]
            raise
        finally:
            self._in_flight = []
            for group in reversed(groups):
                if group.writes:
                    self._queue.appendleft(group)
                else:
                    group.finish()

    def _attempt(self, group: Group) -> Sequence[Write]:
        """Return the writes of a group that are made now."""
        if self._is_full and not group.overtakes:
            # One is enough to see that the store is still full.
            return group.writes[:1]
        if len(group.writes) <= LIMITS.writes and group.size <= LIMITS.size:
            return group.writes
        # It has grown while it was put off.
        size = 0
        for count, write in enumerate(group.writes):
            if count == LIMITS.writes or size >= LIMITS.size:
                return group.writes[:count]
            size += size_of(write)
        return group.writes

    def _take(self) -> list[Group]:
        """Take the groups of the next call out of the queue."""
        if self._is_full:
            # Ends make room, and who wants to begin something need not wait to hear that there is none.
            self._queue = deque(sorted(self._queue, key=lambda group: not group.overtakes))
        taken: list[Group] = []
        count = size = 0
        for group in self._queue:
            count += len(group.writes)
            size += group.size
            if taken and (count > LIMITS.writes or size > LIMITS.size):
                break
            taken.append(group)
            if self._is_full and not group.overtakes:
                break
        for _ in taken:
            self._queue.popleft()
        if self._queue:
            # Somebody may wait for what is left, too.
            self._due.set()
        return taken

    def _sort(self, group: Group, tokens: Mapping[int, str]) -> None:
        """Leave in the group what this worker may write, now that it holds these tokens."""
        if self._proven_by is not tokens:
            generation, self._proven_by = self._ownership.generation, tokens
            self._proven |= {slot: (generation, token) for slot, token in tokens.items()}
        if group.held is tokens:
            # Nearly always: nothing has changed since.
            return
        statuses = {slot: self._status_of(slot, group) for slot in group.slots()}
        kept = []
        for write in group.writes:
            match statuses[write.slot]:
                case "ours":
                    kept.append(write)
                case "gone":
                    self._reject(write.env_id, "moved", group, group.held[write.slot])
                case "undecided":
                    self._park(write, group)
                case "emptied":
                    if not self._to_repersist.replace_write(write, group):
                        kept.append(write)
        group.writes = kept

    def _status_of(self, slot: int, group: Group) -> Literal["ours", "gone", "undecided", "emptied"]:
        """Decide what becomes of a group's writes in a slot."""
        present = self._ownership.token_of(slot)
        if present is None:
            return "gone" if self._ownership.has_gone(slot) else "undecided"
        if present == group.held[slot]:
            return "ours"
        # Another token: in the same data set the slot was another worker's meanwhile, and what was to be written is void.
        return "gone" if group.generation == self._ownership.generation else "emptied"

    def _park(self, write: Write, group: Group) -> None:
        """Put a write off until it is known whose its slot is."""
        slot, token = write.slot, group.held[write.slot]
        parked = self._parked.get(slot)
        if parked is not None and parked.held[slot] != token:
            # The slot was another worker's between these and those that were put off before.
            for earlier in parked.writes:
                self._reject(earlier.env_id, "moved", parked, parked.held[slot])
            parked.finish()
            parked = None
        if parked is None:
            parked = self._parked[slot] = Group(group.generation, {slot: token})
        parked.add(write)
        parked.overtakes |= write.kind in _OVERTAKING
        group.later[write.env_id] = parked

    def _unpark(self) -> None:
        """Let writes go on of whose slots it is known by now whose they are."""
        for slot in [
            slot for slot in self._parked if self._ownership.token_of(slot) or self._ownership.has_gone(slot)
        ]:
            self._queue.appendleft(self._parked.pop(slot))

    async def _made(self, tokens: Mapping[int, str], writes: Sequence[Write]) -> list[Refusal]:
        """Make writes; what cannot be made for a reason that nobody thought of is found, and stops no other."""
        began = time.perf_counter()
        try:
            refusals = await self._log.commit(self._ownership.generation, tokens, writes)
        except (StoreUnavailableError, GenerationChangedError):
            raise
        except Exception as defect:
            if len(writes) > 1:
                middle = len(writes) // 2
                first = await self._made(tokens, writes[:middle])
                second = await self._made(tokens, writes[middle:])
                return [*first, *(Refusal(middle + position, reason) for position, reason in second)]
            await self._require_log(defect)
            logger.exception(
                "writing one environment to the event log failed; the environment is lost",
                extra={"env_id": writes[0].env_id},
            )
            return [Refusal(0, "broken")]
        self.written += len(writes)
        self.groups += 1
        self.write_s.observe(time.perf_counter() - began)
        return refusals

    async def _require_log(self, defect: Exception) -> None:
        """Raise if the log makes no writes at all.

        Raises:
            StoreUnavailableError: It does not.
        """
        try:
            await self._log.commit(self._ownership.generation, {}, [])
        except (StoreUnavailableError, GenerationChangedError):
            raise
        except Exception:  # noqa: BLE001 - it is the one that was seen already
            raise StoreUnavailableError("", f"it refuses all writes ({defect})") from defect

    def _note_refusals(
        self,
        groups: Sequence[Group],
        attempts: Sequence[Sequence[Write]],
        refusals: Sequence[Refusal],
        tokens: Mapping[int, str],
    ) -> None:
        """Take out of the groups what was written under these tokens, and see to what was not."""
        reasons = dict(refusals)
        start, has_grown = 0, False
        for group, attempt in zip(groups, attempts, strict=True):
            left = group.writes[len(attempt) :]
            if reasons or group.overtakes:
                left = self._refused(group, attempt, start, reasons, tokens) + left
            group.writes = left
            start += len(attempt)
            has_grown |= bool(attempt) and attempt[0].kind != "close"
        if "full" in reasons.values():
            self._is_full = True
        elif has_grown:
            self._is_full = False

    def _refused(
        self,
        group: Group,
        attempt: Sequence[Write],
        start: int,
        reasons: Mapping[int, RefusalReason],
        tokens: Mapping[int, str],
    ) -> list[Write]:
        """Handle refused writes; returns those that are to be tried again unchanged."""
        again: list[Write] = []
        for position, write in enumerate(attempt, start):
            reason = reasons.get(position)
            if reason is None:
                if write.kind == "close":
                    self._note_end(write)
            elif reason == "full" and (write.kind != "create" or self._recorded.answers_early(write.env_id)):
                again.append(write)
            elif reason in LOST:
                self._to_repersist.replace_write(write, group)
            elif reason == "moved" and self._ownership.was_refused():
                again.append(write)
            else:
                self._reject(write.env_id, reason, group, tokens[write.slot])
        return again

    def _note_end(self, write: Write) -> None:
        try:
            self._recorded.ended(write.env_id, write.data.decode())
        except Exception:
            logger.exception(
                "closing an environment after its end was written failed", extra={"env_id": write.env_id}
            )

    # --- what is re-persisted -------------------------------------------------------------------------------

    async def _repersist_some(self) -> bool:
        """Re-persist some environments, as many as one call takes; returns whether there were any."""
        batch = self._to_repersist.next()
        if batch is None:
            return False
        if self._to_repersist.is_outdated(batch):
            self._to_repersist.begin_anew()
            return True
        call = batch.calls[0]
        refusals = await self._made(batch.tokens, call[:1] if self._is_full else call)
        was_full = self._is_full
        reasons = {reason for _, reason in refusals}
        self._is_full = "full" in reasons
        if "moved" in reasons and self._ownership.was_refused():
            self._to_repersist.begin_anew()
            return True
        # While the store is full, and right after: all of it once more, which does no harm.
        if not (self._is_full or was_full):
            self._to_repersist.note_call(refusals)
        return True

    def _reject(self, env_id: str, reason: RefusalReason, group: Group | None, token: str | None) -> None:
        """Tell those who wait, and whoever holds the environment, that it cannot be written under ``token``."""
        if group is not None:
            if env_id in group.errors:
                return
            group.errors[env_id] = error_of(env_id, reason)
        if token is not None and self._ownership.token_of(slot_of(env_id)) not in (None, token):
            # The slot was another worker's meanwhile. What is here of the environment by now was brought back since.
            return
        try:
            self._recorded.refused(env_id, reason)
        except Exception:
            logger.exception("evicting an environment after a refused write failed", extra={"env_id": env_id})

    def _note(self, trouble: StoreUnavailableError | GenerationChangedError | None) -> None:
        """Say once that the store went away, and once that it is back."""
        if trouble is not None and self._trouble is None:
            logger.warning("writing to the event log failed; retrying", extra={"detail": trouble.detail})
        elif trouble is None and self._trouble is not None:
            logger.info("writing to the event log succeeds again")
        if isinstance(trouble, GenerationChangedError):
            trouble = StoreUnavailableError("", trouble.detail)
        self._trouble = trouble


def error_of(env_id: str, reason: RefusalReason) -> VerlAgentEnvError:
    """Return the error for the waiters of a refused write."""
    if reason == "closed":
        return EnvironmentClosedError(env_id, "closed")
    if reason == "gone":
        return EnvironmentLostError(env_id, "the store lost it, and this worker cannot write it again")
    if reason == "full":
        return StoreFullError()
    if reason == "broken":
        return EnvironmentLostError(env_id, "the store does not take what is to be kept of it")
    # Whatever else: somebody else owns the environment, or did. Whoever asks again meets the owner.
    return MovedError(slot_of(env_id))
