"""Group commit: what happens to environments is written in groups, one at a time, and answered when it is written.

A write waits for nothing but the group that is on its way: whatever arrives meanwhile goes together in the next one.
What cannot be written at present holds up nothing else: writes of a slot whose owner is not known wait by themselves,
and so do environments that have to be stated again as a whole.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from verl_agent_env import waits
from verl_agent_env.engine.persistence.deadlines import Deadlines
from verl_agent_env.engine.persistence.groups import Group
from verl_agent_env.engine.persistence.packing import LIMITS, pack, size_of
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    GenerationChangedError,
    MovedError,
    StoreFullError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.wire.log import Log
from verl_agent_env.wire.records import Refusal, RefusalReason, Write

logger = logging.getLogger(__name__)

_RETRY_S = 0.1
_MAX_BACKLOG_BYTES = 64 * 1024 * 1024
_OVERTAKING = ("close", "create")
_LOST: tuple[RefusalReason, ...] = ("gone", "short")
"""Reasons for which everything is stated again."""


class Tenure(Protocol):
    """The slots that this worker owns."""

    @property
    def generation(self) -> str:
        """The data set in which it owns them."""

    def token_of(self, slot: int) -> str | None:
        """What proves that it owns the slot; None if it does not, or not at the moment."""

    def owns(self, slot: int) -> bool:
        """Whether it may act for the slot now: it owns it, and its lease is good."""

    def has_gone(self, slot: int) -> bool:
        """Whether another worker owns the slot."""


class Recorded(Protocol):
    """The environments that the writes tell of."""

    def restate(self, env_id: str) -> Sequence[Write] | None:
        """Writes that say all of an environment; none if that cannot be said, None if it is not here."""

    def refused(self, env_id: str, reason: RefusalReason) -> None:
        """Called when an environment cannot be written any more, and why."""

    def ended(self, env_id: str, reason: str) -> None:
        """Called when the end of an environment is written, with its reason."""

    def answers_early(self, env_id: str) -> bool:
        """Whether calls on the environment are answered before they are written."""


@dataclass
class _Statement:
    """Environments that are stated again at the moment."""

    generation: str
    tokens: Mapping[int, str]
    groups: dict[str, Group | None]
    """Who waits for each of them."""
    calls: deque[list[Write]]
    """What is still to be written."""


class Journal:
    """Writes to the log of one worker.

    What the store lost is written again from memory. Writes outlive the patience of those who wait for them: they are
    made when the store is back, unless the slot was another worker's meanwhile.
    """

    def __init__(
        self, log: Log, tenure: Tenure, recorded: Recorded, *, patience_s: float = waits.STORE_S
    ) -> None:
        """Make a journal that writes nothing until :meth:`run`.

        Args:
            log: Where to write.
            tenure: The slots that may be written.
            recorded: The environments.
            patience_s: How long anybody waits for a write, from the moment at which the waiting begins.
        """
        self._log = log
        self._tenure = tenure
        self._recorded = recorded
        self._patience_s = patience_s
        self._queue: deque[Group] = deque()
        self._in_flight: list[Group] = []
        self._parked: dict[int, Group] = {}
        """Writes of slots of which it is not known whose they are."""
        self._proven: dict[int, tuple[str, str]] = {}
        """Data set and token under which each slot was written last: while its owner is not known, it may turn out to be the
        same."""
        self._lost: OrderedDict[str, Group | None] = OrderedDict()
        """Environments that have to be stated again, and who waits for them."""
        self._statement: _Statement | None = None
        self._wake = asyncio.Event()
        self._trouble: StoreUnavailableError | None = None
        self._is_full = False
        self._deadlines = Deadlines(self._waited_for, self._lateness)
        self.written = 0
        """Writes made."""
        self.groups = 0
        """Calls of the log."""

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait to be written."""
        return sum(group.size for group in self._queue)

    # --- who writes -----------------------------------------------------------------------------------------

    def write(self, write: Write) -> Group:
        """Put a write in the queue; returns the group that it goes with."""
        slot = write.slot
        overtakes = write.kind in _OVERTAKING
        generation, token = self._tenure.generation, self._tenure.token_of(slot)
        if token is None:
            # In a store that was emptied, slots have no owners yet: what is written now goes on from the data set before.
            generation, token = self._proven.get(slot, ("", None))
        group = self._parked.get(slot)
        if group is None or group.tokens[slot] != token:
            group = self._queue[-1] if self._queue else None
            if (
                group is None
                or group.is_full
                or group.overtakes != overtakes
                or group.generation != generation
                # What waits there is of a time before the slot was another worker's.
                or group.tokens.setdefault(slot, token) != token
            ):
                group = Group(generation)
                group.tokens[slot] = token
                self._queue.append(group)
        group.add(write)
        if overtakes:
            group.overtakes = True
        self._wake.set()
        return group

    def restate(self, env_ids: Iterable[str]) -> None:
        """State these environments again as a whole, a few at a time, besides everything else."""
        for env_id in env_ids:
            self._lost.setdefault(env_id, None)
        self._wake.set()

    # --- who waits ------------------------------------------------------------------------------------------

    async def settle(self, env_id: str, group: Group) -> None:
        """Return when all writes of an environment until those in ``group`` are made.

        Raises:
            StoreUnavailableError: They are not made in time; whether they will be is unknown.
            MovedError: Another worker owns the environment.
            EnvironmentLostError, EnvironmentClosedError: Nobody can write it.
        """
        deadline = asyncio.get_running_loop().time() + self._patience_s
        later: Group | None = group
        while later is not None:
            if not later.is_done:
                await self._deadlines.end_of(later, deadline)
            if env_id in later.errors:
                raise later.errors[env_id]
            later = later.later.get(env_id)

    async def settle_all(
        self, waiting: Mapping[Group, Sequence[tuple[int, str]]]
    ) -> dict[int, VerlAgentEnvError]:
        """As :meth:`settle` for many, which wait side by side.

        Args:
            waiting: By the group that they wait for: a number for each, and its environment.

        Returns:
            The errors of those that have one, by their numbers.
        """
        deadline = asyncio.get_running_loop().time() + self._patience_s
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
        stated = () if self._statement is None else self._statement.groups
        slots = {int(env_id[:3], 16) for env_id in itertools.chain(self._lost, stated)}
        return slots.union(*(group.tokens for group in self._written_groups()))

    def _pending(self, slots: Collection[int] | None) -> list[Group]:
        """The groups in which something is left to write of these slots, those included that nobody waited for yet."""
        pending = [
            group
            for group in self._written_groups()
            if slots is None or not group.tokens.keys().isdisjoint(slots)
        ]
        for env_id in list(self._lost):
            if slots is None or int(env_id[:3], 16) in slots:
                pending.append(self._lose(env_id))
        statement = self._statement
        if statement is not None:
            for env_id, group in list(statement.groups.items()):
                if slots is None or int(env_id[:3], 16) in slots:
                    waited_for = statement.groups[env_id] = group or Group(statement.generation)
                    pending.append(waited_for)
        return pending

    def _written_groups(self) -> Iterator[Group]:
        return itertools.chain(self._in_flight, self._queue, self._parked.values())

    def _waited_for(self) -> Iterator[Group]:
        """All groups that somebody may wait for."""
        yield from self._written_groups()
        stated = {} if self._statement is None else self._statement.groups
        for group in (*self._lost.values(), *stated.values()):
            if group is not None:
                yield group

    def _lateness(self) -> StoreUnavailableError:
        """What to say to those who have waited long enough."""
        trouble = self._trouble or StoreUnavailableError("", "no worker may write to the slot at present")
        return type(trouble)(
            trouble.store, f"{trouble.reason}, for {self._patience_s:g} s", may_have_run=True
        )

    # --- the writing ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write, until cancelled; what was not written then is written when it runs again."""
        while True:
            if not (self._queue or self._lost or self._parked or self._statement):
                self._wake.clear()
                await self._wake.wait()
            try:
                has_written = await self._write_some()
                has_stated = await self._state_some()
            except (StoreUnavailableError, GenerationChangedError) as trouble:
                self._note(trouble)
            else:
                if not (has_written or has_stated or self._is_full):
                    await self._pause()
                    continue
                self._note(StoreFullError() if self._is_full else None)
            if self._trouble is not None:
                self._shed()
                await asyncio.sleep(_RETRY_S)

    def _shed(self) -> None:
        """While nothing can be written, forget writes that nobody waits for once there are too many of them.

        Their environments are stated again instead, from what is in memory anyway.
        """
        if self.backlog_bytes <= _MAX_BACKLOG_BYTES:
            return
        for group in self._queue:
            kept = []
            for write in group.writes:
                if write.kind == "close" or not self._recorded.answers_early(write.env_id):
                    kept.append(write)
                else:
                    self._lost.setdefault(write.env_id, None)
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
        groups = self._in_flight = self._take()
        tokens: dict[int, str] = {}
        try:
            for group in groups:
                self._sort(group, tokens)
            # While the store is full, one write is enough to see that it is.
            attempts = [
                group.writes[:1] if self._is_full and not group.overtakes else group.writes
                for group in groups
            ]
            writes = [write for attempt in attempts for write in attempt]
            if writes:
                self._note_refusals(groups, attempts, await self._made(tokens, writes), tokens)
            return bool(writes)
        except GenerationChangedError:
            # The slots are claimed anew, in the new data set; what was in the old one is stated there.
            for group in groups:
                group.writes = [write for write in group.writes if not self._lose_write(write, group)]
            raise
        finally:
            self._in_flight = []
            for group in reversed(groups):
                if group.writes:
                    self._queue.appendleft(group)
                else:
                    group.finish()

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
        return taken

    def _sort(self, group: Group, tokens: dict[int, str]) -> None:
        """Leave in the group what this worker may write, and add the tokens that prove it."""
        fates = {slot: self._fate_of(slot, token, group) for slot, token in group.tokens.items()}
        if any(fate != "ours" for fate in fates.values()):
            kept = []
            for write in group.writes:
                match fates[write.slot]:
                    case "ours":
                        kept.append(write)
                    case "gone":
                        self._give_up(write.env_id, "moved", group, group.tokens[write.slot])
                    case "undecided":
                        self._park(write, group)
                    case "emptied":
                        if not self._lose_write(write, group):
                            kept.append(write)
            group.writes = kept
        for slot, fate in fates.items():
            token = self._tenure.token_of(slot)
            if token is not None and fate in ("ours", "emptied"):
                tokens[slot] = token
                self._proven[slot] = self._tenure.generation, token

    def _fate_of(
        self, slot: int, token: str | None, group: Group
    ) -> Literal["ours", "gone", "undecided", "emptied"]:
        """What becomes of writes that were asked for under ``token``."""
        present = self._tenure.token_of(slot)
        if present is None:
            return "gone" if self._tenure.has_gone(slot) else "undecided"
        if present == token:
            return "ours"
        # Another token: in the same data set the slot was another worker's meanwhile, and what was to be written is void.
        return "gone" if group.generation == self._tenure.generation else "emptied"

    def _park(self, write: Write, group: Group) -> None:
        """Put a write off until it is known whose its slot is."""
        slot, token = write.slot, group.tokens[write.slot]
        parked = self._parked.get(slot)
        if parked is not None and parked.tokens[slot] != token:
            # The slot was another worker's between these and those that were put off before.
            for earlier in parked.writes:
                self._give_up(earlier.env_id, "moved", parked, parked.tokens[slot])
            parked.finish()
            parked = None
        if parked is None:
            parked = self._parked[slot] = Group(group.generation)
            parked.tokens[slot] = token
        parked.add(write)
        parked.overtakes |= write.kind in _OVERTAKING
        group.later[write.env_id] = parked

    def _unpark(self) -> None:
        """Let writes go on of whose slots it is known by now whose they are."""
        for slot in [
            slot for slot in self._parked if self._tenure.token_of(slot) or self._tenure.has_gone(slot)
        ]:
            self._queue.appendleft(self._parked.pop(slot))

    async def _made(self, tokens: Mapping[int, str], writes: Sequence[Write]) -> list[Refusal]:
        """Make writes; what cannot be made for a reason that nobody thought of is found, and stops no other."""
        try:
            refusals = await self._log.commit(self._tenure.generation, tokens, writes)
        except (StoreUnavailableError, GenerationChangedError):
            raise
        except Exception as defect:
            if len(writes) > 1:
                middle = len(writes) // 2
                first = await self._made(tokens, writes[:middle])
                second = await self._made(tokens, writes[middle:])
                return [*first, *(Refusal(middle + position, reason) for position, reason in second)]
            await self._require_log(defect)
            logger.exception("a write cannot be made", extra={"env_id": writes[0].env_id})
            return [Refusal(0, "broken")]
        self.written += len(writes)
        self.groups += 1
        return refusals

    async def _require_log(self, defect: Exception) -> None:
        """Raise if the log makes no writes at all.

        Raises:
            StoreUnavailableError: It does not.
        """
        try:
            await self._log.commit(self._tenure.generation, {}, [])
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
        """See to what was not written; returns what is to be tried again, as it is."""
        again: list[Write] = []
        for position, write in enumerate(attempt, start):
            reason = reasons.get(position)
            if reason is None:
                if write.kind == "close":
                    self._note_end(write)
            elif reason == "full" and (write.kind != "create" or self._recorded.answers_early(write.env_id)):
                again.append(write)
            elif reason in _LOST:
                self._lose_write(write, group)
            else:
                self._give_up(write.env_id, reason, group, tokens[write.slot])
        return again

    def _note_end(self, write: Write) -> None:
        try:
            self._recorded.ended(write.env_id, write.data.decode())
        except Exception:
            logger.exception("an environment could not be closed", extra={"env_id": write.env_id})

    # --- what is stated again -------------------------------------------------------------------------------

    def _lose_write(self, write: Write, group: Group) -> bool:
        """Have the environment stated again, in place of a write that a store which lost it does not take.

        Returns:
            Whether that is so; an end is written in any store.
        """
        if write.kind == "close":
            return False
        lost = group.later[write.env_id] = self._lose(write.env_id)
        lost.is_asked_for = True
        return True

    def _lose(self, env_id: str) -> Group:
        """Have an environment stated again, before those that nobody waits for; returns the group to wait for."""
        group = self._lost.get(env_id)
        if group is None:
            group = self._lost[env_id] = Group(self._tenure.generation)
            self._lost.move_to_end(env_id, last=False)
            self._wake.set()
        return group

    async def _state_some(self) -> bool:
        """State some environments again, as many as one call takes; returns whether there were any."""
        statement = self._statement
        if statement is None:
            statement = self._statement = self._next_statement()
        if statement is None:
            return False
        if statement.generation != self._tenure.generation or any(
            self._tenure.token_of(slot) != token for slot, token in statement.tokens.items()
        ):
            self._state_again(statement)
            return True
        call = statement.calls[0]
        attempt = call[:1] if self._is_full else call
        refusals = await self._made(statement.tokens, attempt)
        was_full = self._is_full
        self._is_full = any(reason == "full" for _, reason in refusals)
        if self._is_full or was_full:
            # All of it once more, which does no harm.
            return True
        statement.calls.popleft()
        for position, reason in refusals:
            env_id = call[position].env_id
            group = statement.groups.get(env_id)
            if reason not in _LOST:
                self._give_up(env_id, reason, group, statement.tokens[call[position].slot])
            elif group is None:
                self._lost.setdefault(env_id, None)
            else:
                self._lose_again(env_id, group)
        if not statement.calls:
            self._statement = None
            for group in statement.groups.values():
                if group is not None:
                    group.finish()
        return True

    def _next_statement(self) -> _Statement | None:
        """What to state next; None if there is nothing, or nobody knows whose it is."""
        statement = _Statement(self._tenure.generation, {}, {}, deque())
        tokens: dict[int, str] = {}
        writes: list[Write] = []
        refused: dict[str, RefusalReason] = {}
        size = 0
        for env_id, group in self._lost.items():
            slot = int(env_id[:3], 16)
            token = self._tenure.token_of(slot)
            if token is None and not self._tenure.has_gone(slot):
                continue
            whole = None if token is None else self._whole(env_id)
            statement.groups[env_id] = group
            if token is None or whole is None:
                refused[env_id] = "moved"
            elif not whole:
                refused[env_id] = "gone"
            else:
                tokens[slot] = token
                writes += whole
                size += sum(map(size_of, whole))
            if len(writes) >= LIMITS.writes or size >= LIMITS.size:
                break
        for env_id in statement.groups:
            del self._lost[env_id]
        for env_id, reason in refused.items():
            group = statement.groups.pop(env_id)
            if group is not None:
                # One that nobody asked for lives on here: it is told so at its next call.
                if group.is_asked_for:
                    self._give_up(env_id, reason, group, self._tenure.token_of(int(env_id[:3], 16)))
                group.finish()
        self._supersede(statement)
        statement.tokens = tokens
        statement.calls.extend(pack(writes))
        return statement if writes else None

    def _supersede(self, statement: _Statement) -> None:
        """Take back earlier writes that the statement includes: made after it, they would seem to contradict it."""
        groups = statement.groups
        for group in self._written_groups():
            kept = []
            for write in group.writes:
                if write.env_id not in groups or write.kind == "close":
                    kept.append(write)
                    continue
                stated = groups[write.env_id] = groups[write.env_id] or Group(statement.generation)
                stated.is_asked_for = True
                group.later[write.env_id] = stated
            group.writes = kept

    def _whole(self, env_id: str) -> Sequence[Write] | None:
        """All of an environment; none of it if its own code fails to say it, which is nobody else's loss."""
        try:
            return self._recorded.restate(env_id)
        except Exception:
            logger.exception("an environment cannot be stated again", extra={"env_id": env_id})
            return ()

    def _state_again(self, statement: _Statement) -> None:
        """Begin anew with the environments of a statement whose slots have another owner or data set now."""
        self._statement = None
        for env_id, group in statement.groups.items():
            if group is None:
                self._lost.setdefault(env_id, None)
            else:
                self._lose_again(env_id, group)
                group.finish()

    def _lose_again(self, env_id: str, group: Group) -> None:
        """Have an environment stated once more, for those who wait for ``group``."""
        lost = group.later[env_id] = self._lose(env_id)
        lost.is_asked_for |= group.is_asked_for

    def _give_up(self, env_id: str, reason: RefusalReason, group: Group | None, token: str | None) -> None:
        """Tell those who wait, and whoever holds the environment, that it cannot be written under ``token``."""
        if group is not None:
            if env_id in group.errors:
                return
            group.errors[env_id] = error_of(env_id, reason)
        if token is not None and self._tenure.token_of(int(env_id[:3], 16)) not in (None, token):
            # The slot was another worker's meanwhile. What is here of the environment by now was brought back since.
            return
        try:
            self._recorded.refused(env_id, reason)
        except Exception:
            logger.exception("an environment could not be given up", extra={"env_id": env_id})

    def _note(self, trouble: StoreUnavailableError | GenerationChangedError | None) -> None:
        """Say once that the store went away, and once that it is back."""
        if trouble is not None and self._trouble is None:
            logger.warning("nothing can be written", extra={"detail": trouble.detail})
        elif trouble is None and self._trouble is not None:
            logger.info("writing goes on")
        if isinstance(trouble, GenerationChangedError):
            trouble = StoreUnavailableError("", trouble.detail)
        self._trouble = trouble


def error_of(env_id: str, reason: RefusalReason) -> VerlAgentEnvError:
    """What to answer when a write was refused."""
    if reason == "closed":
        return EnvironmentClosedError(env_id, "closed")
    if reason == "gone":
        return EnvironmentLostError(env_id, "the store lost it, and this worker cannot state it again")
    if reason == "full":
        return StoreFullError()
    if reason == "broken":
        return EnvironmentLostError(env_id, "the store does not take what is to be kept of it")
    # Whatever else: somebody else owns the environment, or did. Whoever asks again meets the owner.
    return MovedError(int(env_id[:3], 16))
