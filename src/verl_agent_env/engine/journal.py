"""Group commit: what happens to environments is written in groups, one at a time, and answered when it is written.

A write waits for nothing but the group that is on its way: whatever arrives meanwhile goes together in the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    GenerationChangedError,
    MovedError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.wire.log import Log
from verl_agent_env.wire.records import Refusal, RefusalReason, Write

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long an answer waits for a store that is away."""
_MAX_GROUP = 1024
"""Writes of one call of the log: the store answers nobody else while it makes them."""
_RETRY_S = 0.1
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


class Group:
    """Writes that are on their way together, and who waits for them."""

    __slots__ = ("_waiting", "errors", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self.errors: dict[str, VerlAgentEnvError] = {}
        """What became of environments whose writes were refused."""
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def wait(self) -> asyncio.Future[None]:
        """Done when the writes are.

        Raises:
            StoreUnavailableError: The store is away; whether it has made the writes, or will, is unknown.
        """
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        if self.is_done:
            waiting.set_result(None)
        else:
            self._waiting.append((loop.time() + PATIENCE_S, waiting))
        return waiting

    def finish(self) -> None:
        """Let everybody go on."""
        self.is_done = True
        for _, waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def send_away(self, away: StoreUnavailableError) -> None:
        """Let those go who have waited long enough."""
        now = asyncio.get_running_loop().time()
        for deadline, waiting in self._waiting:
            if deadline <= now and not waiting.done():
                waiting.set_exception(
                    StoreUnavailableError(
                        away.store, f"{away.reason}, for {PATIENCE_S:g} s", may_have_run=True
                    )
                )
        self._waiting = [item for item in self._waiting if not item[1].done()]


class Journal:
    """Writes to the log of one worker.

    What the store lost is written again from memory. Writes outlive the patience of those who wait for them: they are
    made when the store is back, unless the slot has another owner by then.
    """

    def __init__(
        self,
        log: Log,
        tenure: Tenure,
        restate: Callable[[str], Sequence[Write]],
        refused: Callable[[str, RefusalReason], None],
        closed: Callable[[str, str], None],
    ) -> None:
        """A journal that writes nothing until :meth:`run`.

        Args:
            log: Where to write.
            tenure: The slots that may be written.
            restate: Writes that say all of an environment; none if that cannot be said.
            refused: Is told that an environment cannot be written any more, and why.
            closed: Is told that the end of an environment is written, and its reason.
        """
        self._log = log
        self._tenure = tenure
        self._restate = restate
        self._refused = refused
        self._closed = closed
        self._void: set[int] = set()
        """Slots that went to another worker since the group under way was put together."""
        self._queue: list[Write] = []
        self._next = Group()
        self._running: Group | None = None
        self._wake = asyncio.Event()
        self._is_away = False
        self.written = 0
        """Writes made."""
        self.groups = 0
        """Calls of the log."""

    @property
    def last(self) -> Group | None:
        """The group after which everything written so far is written; None when it is already."""
        return self._next if self._queue else self._running

    def write(self, write: Write) -> Group:
        """Put a write in the queue; gives the group that it goes with."""
        self._queue.append(write)
        if len(self._queue) == 1:
            self._wake.set()
        return self._next

    def discard(self, slots: Collection[int]) -> None:
        """Give up writes of slots that went to another worker: they must not be made, not even if the slots come back."""
        self._void.update(slots)
        kept = []
        for write in self._queue:
            if write.slot in self._void:
                self._give_up(write.env_id, "moved", self._next)
            else:
                kept.append(write)
        self._queue = kept

    async def flush(self) -> None:
        """Return when everything is written.

        Raises:
            StoreUnavailableError: The store is away.
        """
        last = self.last
        if last is not None:
            await last.wait()

    async def run(self) -> None:
        """Write, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            writes, self._queue = self._queue, []
            self._void.clear()
            self._running, self._next = self._next, Group()
            for start in range(0, len(writes), _MAX_GROUP):
                await self._commit(writes[start : start + _MAX_GROUP], self._running)
            self._running.finish()
            self._running = None
            if self._queue:
                self._wake.set()

    async def _commit(self, writes: list[Write], group: Group) -> None:
        """Make the writes, however long it takes."""
        while writes:
            owned, undecided, tokens = self._sort(writes, group)
            if not owned:
                # Between two owners, or between two data sets: it turns out soon whose the slots are.
                group.send_away(StoreUnavailableError("", "nobody owns the slot"))
                await asyncio.sleep(_RETRY_S)
                writes = undecided
                continue
            try:
                refusals = await self._log.commit(self._tenure.generation, tokens, owned)
            except StoreUnavailableError as away:
                self._note(away)
                group.send_away(away)
                await asyncio.sleep(_RETRY_S)
                continue
            except GenerationChangedError as emptied:
                # The slots are claimed anew, in the new data set; what was in the old one is stated again.
                group.send_away(StoreUnavailableError("", emptied.detail))
                await asyncio.sleep(_RETRY_S)
                writes = self._restated(owned, group) + undecided
                continue
            except Exception:
                logger.exception("a group of writes failed")
                for write in owned:
                    self._give_up(write.env_id, "gone", group)
                writes = undecided
                continue
            self._note(None)
            self.written += len(owned)
            self.groups += 1
            self._note_ends(owned, refusals)
            lost = [owned[position] for position, reason in refusals if reason in _LOST]
            for position, reason in refusals:
                if reason not in _LOST:
                    self._give_up(owned[position].env_id, reason, group)
            writes = self._restated(lost, group) + undecided

    def _sort(self, writes: list[Write], group: Group) -> tuple[list[Write], list[Write], dict[int, str]]:
        """The writes whose slots are ours, those of which that is not known yet, and the tokens."""
        tokens: dict[int, str] = {}
        owned: list[Write] = []
        undecided: list[Write] = []
        for write in writes:
            slot = write.slot
            if slot in self._void:
                self._give_up(write.env_id, "moved", group)
                continue
            if slot in tokens:
                owned.append(write)
                continue
            token = self._tenure.token_of(slot)
            if token is not None:
                tokens[slot] = token
                owned.append(write)
            elif self._tenure.has_gone(slot):
                self._give_up(write.env_id, "moved", group)
            else:
                undecided.append(write)
        return owned, undecided, tokens

    def _restated(self, writes: list[Write], group: Group) -> list[Write]:
        """For each environment, all of it; of one that was to end, its end."""
        restated: list[Write] = []
        ends = {write.env_id: write for write in writes if write.kind == "close"}
        for env_id in dict.fromkeys(write.env_id for write in writes):
            whole = (ends[env_id],) if env_id in ends else self._restate(env_id)
            if whole:
                restated += whole
            else:
                self._give_up(env_id, "gone", group)
        return restated

    def _note_ends(self, made: Sequence[Write], refusals: Sequence[Refusal]) -> None:
        """Tell of the ends that were written."""
        refused = {position for position, _ in refusals}
        for position, write in enumerate(made):
            if write.kind == "close" and position not in refused:
                self._closed(write.env_id, write.data.decode())

    def _give_up(self, env_id: str, reason: RefusalReason, group: Group) -> None:
        if env_id not in group.errors:
            group.errors[env_id] = error_of(env_id, reason)
            self._refused(env_id, reason)

    def _note(self, away: StoreUnavailableError | None) -> None:
        """Say once that the store went away, and once that it is back."""
        if away is not None and not self._is_away:
            logger.warning("nothing can be written", extra={"detail": away.detail})
        elif away is None and self._is_away:
            logger.info("writing goes on")
        self._is_away = away is not None


def error_of(env_id: str, reason: RefusalReason) -> VerlAgentEnvError:
    """What to answer when a write was refused."""
    if reason == "closed":
        return EnvironmentClosedError(env_id, "closed")
    if reason == "gone":
        return EnvironmentLostError(env_id, "the store lost it, and this worker cannot state it again")
    # Whatever else: somebody else owns the environment, or did. Whoever asks again meets the owner.
    return MovedError(int(env_id[:3], 16))
