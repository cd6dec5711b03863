"""Bundles: the steps of one call of the log as one value, sorted into the journals when somebody has to read these.

Redis compares each step with its environment's journal and appends it, a command for each; a bundle is one command for all.
What makes the comparison needless: the steps of a slot come from one writer, which has its last call's number compared
instead. So a step goes into a bundle only where this writer knows that it follows on what is kept; every other one is
compared as before.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from verl_agent_env.wire.records import Write

MAX_STEP_BYTES = 16 * 1024
"""Longer steps are appended to their journals at once: of them Redis would have to copy too much twice."""
_MAX_STEPS = 4000
"""Steps of one bundle; Lua's stack is limited."""
_FEW_JOURNALS = 1000
_BYTES_OF_STEP = 48
"""What a bundle says of a step beside its entry, about."""
_MAX_BYTES_EACH = 16 * 1024
_FEW_BYTES, _MANY_BYTES = 8 * 1024 * 1024, 64 * 1024 * 1024
"""Bytes of a writer's bundles, for each of its environments, after which the older ones are sorted out; never below the first of the
other two numbers, and always above the second. The later, the less is left to sort, because episodes are over by then; but
whoever takes the writer's slots over sorts all of it before it reads."""
_READING = frozenset(("append", "extend", "put", "create"))
"""Writes for which the journal is read."""
_ENDING = frozenset(("close", "begin"))
"""Writes with which the journal ends."""


@dataclass(slots=True)
class Bundle:
    """The steps of one call that go together, and the writes that do not."""

    steps: list[Any] = field(default_factory=list)
    """Environment, episode, number and length of each step by turns."""
    entries: list[bytes] = field(default_factory=list)
    slots: set[int] = field(default_factory=set)
    others: list[int] = field(default_factory=list)
    """Positions of all other writes."""

    def to_bytes(self) -> bytes:
        """Encode the steps; empty if there are none."""
        return b"%b\n%b" % (orjson.dumps(self.steps), b"".join(self.entries)) if self.entries else b""


class BundledSteps:
    """Knowledge of one writer: of the journals that it writes, and of its bundles that are not sorted out yet."""

    def __init__(self) -> None:
        """Begin without knowledge: the first steps of each environment are compared with its journal."""
        self.name = uuid.uuid4().hex
        """Of the writer's log."""
        self.number: int | None = None
        """Of the last call, if it is certain that it had its effect."""
        self._journals: dict[str, tuple[str | None, int, int]] = {}
        """By environment: token under which it was written, episode, steps in its journal and in bundles together."""
        self._max_journals = _FEW_JOURNALS
        """So many are kept before those of environments that are other workers' by now are looked for."""
        self._first_bundle_of: dict[str, int] = {}
        """By environment: number of the first bundle that has steps of its episode which are not in its journal; the lowest number
        is that of the first environment."""
        self._bundle_of: dict[str, int] = {}
        """By environment: number of the last bundle that has steps of it; none where all of these are in its journal or of what is
        over."""
        self._bundles = 0
        self._sizes: deque[int] = deque()
        """Bytes of each of the last bundles: of those that are kept."""
        self._size = 0
        """Of them together."""

    @property
    def count(self) -> int:
        """Number of bundles that were made."""
        return self._bundles

    @property
    def needed(self) -> int:
        """Number of the last bundles that are needed, at least one: in those before them, all steps are in journals or of what is over."""
        return 1 + self._bundles - next(iter(self._first_bundle_of.values()), self._bundles)

    @property
    def is_empty(self) -> bool:
        """True if there are no bundles."""
        return not self._sizes

    @property
    def has_many(self) -> bool:
        """True if bundles are to be sorted out, because they take too much memory."""
        wanted = _MAX_BYTES_EACH * len(self._journals)
        return self._size > min(max(wanted, _FEW_BYTES), _MANY_BYTES)

    @property
    def newest_half(self) -> int:
        """Number of the last bundles that have half of all bytes."""
        size = 0
        for number, bytes_of_one in enumerate(reversed(self._sizes)):
            size += bytes_of_one
            if size > self._size / 2:
                return number
        return len(self._sizes)

    def split(self, tokens: Mapping[int, str], writes: Sequence[Write]) -> Bundle | None:
        """Split the writes of a call; None if one of them reads a journal of which steps are in bundles."""
        if len(writes) > _MAX_STEPS:
            return None
        bundle, journals, bundle_of, first_of = (
            Bundle(),
            self._journals,
            self._bundle_of,
            self._first_bundle_of,
        )
        steps, entries, slots, others = bundle.steps, bundle.entries, bundle.slots, bundle.others
        number = self._bundles + 1
        begun: set[str] = set()
        # Whatever is looked at here is looked at for each step of a batch.
        for position, write in enumerate(writes):
            kind, env_id, episode, seq = write.kind, write.env_id, write.episode, write.seq
            if kind == "append" and len(data := write.data) <= MAX_STEP_BYTES:
                slot = write.slot
                token = tokens.get(slot)
                if journals.get(env_id) == (token, episode, seq):
                    journals[env_id] = token, episode, seq + 1
                    bundle_of[env_id] = number
                    if env_id not in first_of:
                        first_of[env_id] = number
                    steps += (env_id, episode, seq, len(data))
                    entries.append(data)
                    slots.add(slot)
                    continue
            others.append(position)
            if kind in _ENDING:
                # What follows in this call is compared. The next episode has a journal of its own.
                journals.pop(env_id, None)
                begun.add(env_id)
            elif (
                kind in _READING
                and env_id not in begun
                and env_id in bundle_of
                # What states a history anew, up to where it is, does not depend on what is in the journal.
                and not (
                    len(write.entries) < seq
                    and kind == "put"
                    and journals.get(env_id) == (tokens.get(write.slot), episode, seq)
                )
            ):
                self.forget(steps[::4])
                return None
        if entries:
            self._bundles = number
            self._sizes.append(sum(map(len, entries)) + _BYTES_OF_STEP * len(entries))
            self._size += self._sizes[-1]
        return bundle

    def has_any_of(self, env_ids: Sequence[str]) -> bool:
        """Tell whether there are steps of any of these environments in bundles."""
        return not self._bundle_of.keys().isdisjoint(env_ids)

    def reads_bundled(self, writes: Sequence[Write]) -> bool:
        """Tell whether one of the writes reads a journal of which steps are in bundles."""
        return self.has_any_of([write.env_id for write in writes if write.kind in _READING])

    def note_call(self, number: int) -> None:
        """Note the number that a call got: if it is not the one that follows, the store lost some before it."""
        if self.number is not None and number != self.number + 1:
            self._journals.clear()
        self.number = number

    def note_journals(self, tokens: Mapping[int, str], writes: Sequence[Write], grown: Sequence[Any]) -> None:
        """Note what is in journals, as the store says it after these writes: environment, episode, steps by turns."""
        slots = {write.env_id: write.slot for write in writes} if grown else {}
        for env_id, episode, steps in zip(grown[::3], grown[1::3], grown[2::3], strict=True):
            self._journals[env_id] = tokens.get(slots[env_id]), episode, steps
            if steps == 0:
                # It has just begun: what there is in bundles belongs to an episode that is over.
                self._need_none_of(env_id)
        for write in writes:
            if write.kind == "close":
                self._journals.pop(write.env_id, None)
                self._need_none_of(write.env_id)
        if len(self._journals) > self._max_journals:
            held = {*tokens.values()}
            self._journals = {env_id: known for env_id, known in self._journals.items() if known[0] in held}
            self._max_journals = max(_FEW_JOURNALS, 2 * len(self._journals))

    def note_removed(self, bundles: int) -> None:
        """Note that nothing is left but this many of the last bundles."""
        while len(self._sizes) > bundles:
            self._size -= self._sizes.popleft()

    def note_sorted_out(self, bundles: int) -> None:
        """Note that the first ``bundles`` that were made are sorted into the journals."""
        self.note_removed(self._bundles - bundles)
        if self.is_empty:
            # With what was meant for a bundle that was not made.
            self._bundle_of.clear()
            self._first_bundle_of.clear()
        first_of, oldest = self._first_bundle_of, self._bundles - len(self._sizes) + 1
        for env_id in [env_id for env_id, first in first_of.items() if first < oldest]:
            if self._bundle_of[env_id] >= oldest:
                first_of[env_id] = oldest
            else:
                self._need_none_of(env_id)

    def _need_none_of(self, env_id: str) -> None:
        """Note that no step in the bundles that there are is needed for an environment."""
        self._bundle_of.pop(env_id, None)
        self._first_bundle_of.pop(env_id, None)

    def forget(self, env_ids: Sequence[str]) -> None:
        """Have the next steps of these environments compared with their journals."""
        for env_id in env_ids:
            self._journals.pop(env_id, None)

    def doubt(self) -> None:
        """Have all next steps compared: it is not known what the last call did."""
        self._journals.clear()
        self.number = None
