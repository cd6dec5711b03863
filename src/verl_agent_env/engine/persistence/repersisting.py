"""Re-persists environments of which the store has lost something: all of each is written again."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.group_commit.packing import LIMITS, pack, size_of
from verl_agent_env.engine.persistence.slot_ownership import SlotOwnership
from verl_agent_env.types import slot_of
from verl_agent_env.wire.records import Refusal, RefusalReason, Write

logger = logging.getLogger(__name__)

LOST: tuple[RefusalReason, ...] = ("gone", "short")
"""Why a store refuses a write if it has lost what came before."""

Reject = Callable[[str, RefusalReason, Group | None, str | None], None]
"""Tells those who wait in a group, and whoever holds the environment, that it cannot be written under a token."""


class Recorded(Protocol):
    """The environments that the writes tell of."""

    def repersist(self, env_id: str) -> Sequence[Write] | None:
        """Writes that say all of an environment; none if that cannot be said, None if it is not here."""

    def refused(self, env_id: str, reason: RefusalReason) -> None:
        """Called when an environment cannot be written any more, and why."""

    def ended(self, env_id: str, reason: str) -> None:
        """Called when the end of an environment is written, with its reason."""

    def answers_early(self, env_id: str) -> bool:
        """Tell whether calls on the environment are answered before they are written."""


@dataclass
class RepersistBatch:
    """Environments that are re-persisted at the moment."""

    generation: str
    tokens: Mapping[int, str]
    groups: dict[str, Group | None]
    """Who waits for each of them."""
    calls: deque[list[Write]]
    """What is still to be written."""


class RepersistQueue:
    """Environments that have to be re-persisted, a few at a time; those first that somebody waits for."""

    def __init__(
        self,
        ownership: SlotOwnership,
        recorded: Recorded,
        wake_up: Callable[[], None],
        written_groups: Callable[[], Iterable[Group]],
        reject: Reject,
    ) -> None:
        """There is nothing to re-persist yet.

        Args:
            ownership: The slots that may be written.
            recorded: The environments.
            wake_up: Called when there is something to re-persist.
            written_groups: The writes that are still to be made.
            reject: Called with what cannot be re-persisted.
        """
        self._ownership = ownership
        self._recorded = recorded
        self._wake_up = wake_up
        self._written_groups = written_groups
        self._reject = reject
        self._lost: OrderedDict[str, Group | None] = OrderedDict()
        """Environments to re-persist, and who waits for them."""
        self._present: RepersistBatch | None = None

    def __bool__(self) -> bool:
        """Tell whether there is anything to re-persist."""
        return bool(self._lost) or self._present is not None

    # --- what to re-persist ---------------------------------------------------------------------------------

    def add(self, env_ids: Iterable[str]) -> None:
        """Have these environments re-persisted; nobody waits for them."""
        for env_id in env_ids:
            self._lost.setdefault(env_id, None)
        self._wake_up()

    def replace_write(self, write: Write, group: Group) -> bool:
        """Have the environment re-persisted, in place of a write that a store which lost it does not take.

        Returns:
            Whether that is so; an end is written in any store.
        """
        if write.kind == "close":
            return False
        lost = group.later[write.env_id] = self._add_first(write.env_id)
        lost.is_asked_for = True
        return True

    def _add_first(self, env_id: str) -> Group:
        """Have an environment re-persisted before those that nobody waits for; returns the group to wait for."""
        group = self._lost.get(env_id)
        if group is None:
            group = self._lost[env_id] = Group(self._ownership.generation)
            self._lost.move_to_end(env_id, last=False)
            self._wake_up()
        return group

    def _add_again(self, env_id: str, group: Group | None) -> None:
        """Have an environment re-persisted once more, for those who wait for ``group``."""
        if group is None:
            self._lost.setdefault(env_id, None)
            return
        lost = group.later[env_id] = self._add_first(env_id)
        lost.is_asked_for |= group.is_asked_for

    # --- who waits ------------------------------------------------------------------------------------------

    def slots(self) -> set[int]:
        """The slots in which something is to be re-persisted."""
        return {slot_of(env_id) for env_id in (*self._lost, *self._present_groups())}

    def groups_of(self, slots: Collection[int] | None) -> Iterator[Group]:
        """The groups to wait for until all of these slots is re-persisted, or all there is."""
        for env_id in list(self._lost):
            if slots is None or slot_of(env_id) in slots:
                yield self._add_first(env_id)
        present = self._present
        if present is not None:
            for env_id, group in list(present.groups.items()):
                if slots is None or slot_of(env_id) in slots:
                    waited_for = present.groups[env_id] = group or Group(present.generation)
                    yield waited_for

    def waited_for(self) -> Iterator[Group]:
        """The groups that somebody may wait for."""
        for group in (*self._lost.values(), *self._present_groups().values()):
            if group is not None:
                yield group

    def _present_groups(self) -> Mapping[str, Group | None]:
        return {} if self._present is None else self._present.groups

    # --- what is re-persisted -------------------------------------------------------------------------------

    def next(self) -> RepersistBatch | None:
        """The batch to write now; None if there is nothing, or nobody knows whose it is."""
        if self._present is None:
            self._present = self._draw_up()
        return self._present

    def is_outdated(self, batch: RepersistBatch) -> bool:
        """Tell whether the slots of a batch have another owner or data set now."""
        return batch.generation != self._ownership.generation or any(
            self._ownership.token_of(slot) != token for slot, token in batch.tokens.items()
        )

    def begin_anew(self) -> None:
        """Re-persist all environments of the present batch once more."""
        groups, self._present = self._present_groups(), None
        for env_id, group in groups.items():
            self._add_again(env_id, group)
            if group is not None:
                group.finish()

    def note_call(self, refusals: Sequence[Refusal]) -> None:
        """Note that the present batch's next call was made, but for what the store refused."""
        batch = self._present
        if batch is None:
            return
        call = batch.calls.popleft()
        for position, reason in refusals:
            env_id = call[position].env_id
            group = batch.groups.get(env_id)
            if reason in LOST:
                self._add_again(env_id, group)
            else:
                self._reject(env_id, reason, group, batch.tokens[call[position].slot])
        if not batch.calls:
            self._present = None
            for group in batch.groups.values():
                if group is not None:
                    group.finish()

    def _draw_up(self) -> RepersistBatch | None:
        """Take as many environments as one call of the log carries, with their writes."""
        batch = RepersistBatch(self._ownership.generation, {}, {}, deque())
        tokens: dict[int, str] = {}
        writes: list[Write] = []
        refused: dict[str, RefusalReason] = {}
        size = 0
        for env_id, group in self._lost.items():
            slot = slot_of(env_id)
            token = self._ownership.token_of(slot)
            if token is None and not self._ownership.has_gone(slot):
                continue
            whole = None if token is None else self._whole(env_id)
            batch.groups[env_id] = group
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
        for env_id in batch.groups:
            del self._lost[env_id]
        for env_id, reason in refused.items():
            self._refuse(env_id, reason, batch.groups.pop(env_id))
        self._supersede(batch)
        batch.tokens = tokens
        batch.calls.extend(pack(writes))
        return batch if writes else None

    def _refuse(self, env_id: str, reason: RefusalReason, group: Group | None) -> None:
        """Fail the calls that wait for an environment which cannot be re-persisted."""
        if group is None:
            return
        # An environment that nobody asked for stays live here: its next call gets the error.
        if group.is_asked_for:
            self._reject(env_id, reason, group, self._ownership.token_of(slot_of(env_id)))
        group.finish()

    def _supersede(self, batch: RepersistBatch) -> None:
        """Withdraw earlier writes that the batch includes: made after it, they would contradict it."""
        groups = batch.groups
        for group in self._written_groups():
            kept = []
            for write in group.writes:
                if write.env_id not in groups or write.kind == "close":
                    kept.append(write)
                    continue
                merged = groups[write.env_id] = groups[write.env_id] or Group(batch.generation)
                merged.is_asked_for = True
                group.later[write.env_id] = merged
            group.writes = kept

    def _whole(self, env_id: str) -> Sequence[Write] | None:
        """Return the writes of a whole environment; none if the environment's code fails, so that no other is held up."""
        try:
            return self._recorded.repersist(env_id)
        except Exception:
            logger.exception("re-persisting an environment failed", extra={"env_id": env_id})
            return ()
