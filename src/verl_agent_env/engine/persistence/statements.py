"""What is written again as a whole: environments of which the store has lost something."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from verl_agent_env.engine.persistence.groups import Group
from verl_agent_env.engine.persistence.packing import LIMITS, pack, size_of
from verl_agent_env.engine.persistence.tenure import Tenure
from verl_agent_env.types import slot_of
from verl_agent_env.wire.records import Refusal, RefusalReason, Write

logger = logging.getLogger(__name__)

LOST: tuple[RefusalReason, ...] = ("gone", "short")
"""Why a store refuses a write if it has lost what came before."""

GiveUp = Callable[[str, RefusalReason, Group | None, str | None], None]
"""Tells those who wait in a group, and whoever holds the environment, that it cannot be written under a token."""


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
class Statement:
    """Environments that are stated at the moment."""

    generation: str
    tokens: Mapping[int, str]
    groups: dict[str, Group | None]
    """Who waits for each of them."""
    calls: deque[list[Write]]
    """What is still to be written."""


class Statements:
    """Environments that have to be stated again, a few at a time; those first that somebody waits for."""

    def __init__(
        self,
        tenure: Tenure,
        recorded: Recorded,
        wake_up: Callable[[], None],
        written_groups: Callable[[], Iterable[Group]],
        give_up: GiveUp,
    ) -> None:
        """There is nothing to state yet.

        Args:
            tenure: The slots that may be written.
            recorded: The environments.
            wake_up: Called when there is something to state.
            written_groups: The writes that are still to be made.
            give_up: Called with what cannot be stated.
        """
        self._tenure = tenure
        self._recorded = recorded
        self._wake_up = wake_up
        self._written_groups = written_groups
        self._give_up = give_up
        self._lost: OrderedDict[str, Group | None] = OrderedDict()
        """Environments that are to be stated, and who waits for them."""
        self._present: Statement | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to state."""
        return bool(self._lost) or self._present is not None

    # --- what is to be stated -------------------------------------------------------------------------------

    def add(self, env_ids: Iterable[str]) -> None:
        """Have these environments stated again; nobody waits for them."""
        for env_id in env_ids:
            self._lost.setdefault(env_id, None)
        self._wake_up()

    def replace_write(self, write: Write, group: Group) -> bool:
        """Have the environment stated again, in place of a write that a store which lost it does not take.

        Returns:
            Whether that is so; an end is written in any store.
        """
        if write.kind == "close":
            return False
        lost = group.later[write.env_id] = self._add_first(write.env_id)
        lost.is_asked_for = True
        return True

    def _add_first(self, env_id: str) -> Group:
        """Have an environment stated before those that nobody waits for; returns the group to wait for."""
        group = self._lost.get(env_id)
        if group is None:
            group = self._lost[env_id] = Group(self._tenure.generation)
            self._lost.move_to_end(env_id, last=False)
            self._wake_up()
        return group

    def _add_again(self, env_id: str, group: Group | None) -> None:
        """Have an environment stated once more, for those who wait for ``group``."""
        if group is None:
            self._lost.setdefault(env_id, None)
            return
        lost = group.later[env_id] = self._add_first(env_id)
        lost.is_asked_for |= group.is_asked_for

    # --- who waits ------------------------------------------------------------------------------------------

    def slots(self) -> set[int]:
        """The slots in which something is to be stated."""
        return {slot_of(env_id) for env_id in (*self._lost, *self._present_groups())}

    def groups_of(self, slots: Collection[int] | None) -> Iterator[Group]:
        """The groups to wait for until all of these slots is stated, or all there is."""
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

    # --- what is stated -------------------------------------------------------------------------------------

    def next(self) -> Statement | None:
        """What to state now; None if there is nothing, or nobody knows whose it is."""
        if self._present is None:
            self._present = self._draw_up()
        return self._present

    def is_outdated(self, statement: Statement) -> bool:
        """Whether its slots have another owner or data set now."""
        return statement.generation != self._tenure.generation or any(
            self._tenure.token_of(slot) != token for slot, token in statement.tokens.items()
        )

    def begin_anew(self) -> None:
        """State all of the present statement's environments once more."""
        groups, self._present = self._present_groups(), None
        for env_id, group in groups.items():
            self._add_again(env_id, group)
            if group is not None:
                group.finish()

    def note_call(self, refusals: Sequence[Refusal]) -> None:
        """Take in that the present statement's next call was made, but for what the store refused."""
        statement = self._present
        if statement is None:
            return
        call = statement.calls.popleft()
        for position, reason in refusals:
            env_id = call[position].env_id
            group = statement.groups.get(env_id)
            if reason in LOST:
                self._add_again(env_id, group)
            else:
                self._give_up(env_id, reason, group, statement.tokens[call[position].slot])
        if not statement.calls:
            self._present = None
            for group in statement.groups.values():
                if group is not None:
                    group.finish()

    def _draw_up(self) -> Statement | None:
        """As many environments as one call takes, and what to write of them."""
        statement = Statement(self._tenure.generation, {}, {}, deque())
        tokens: dict[int, str] = {}
        writes: list[Write] = []
        refused: dict[str, RefusalReason] = {}
        size = 0
        for env_id, group in self._lost.items():
            slot = slot_of(env_id)
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
            self._refuse(env_id, reason, statement.groups.pop(env_id))
        self._supersede(statement)
        statement.tokens = tokens
        statement.calls.extend(pack(writes))
        return statement if writes else None

    def _refuse(self, env_id: str, reason: RefusalReason, group: Group | None) -> None:
        """Let those go on who wait for what cannot be stated."""
        if group is None:
            return
        # One that nobody asked for lives on here: it is told so at its next call.
        if group.is_asked_for:
            self._give_up(env_id, reason, group, self._tenure.token_of(slot_of(env_id)))
        group.finish()

    def _supersede(self, statement: Statement) -> None:
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
