"""What is kept of a live environment outside its worker, so that another worker can bring it back."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from zlib import crc32

import orjson

from verl_agent_env.wire.codec import OPTIONS
from verl_agent_env.wire.results import EncodedStep

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RecordT = TypeVar("RecordT", bound="DataclassInstance")

WriteKind = Literal["create", "append", "extend", "save", "begin", "close", "put"]
"""
- ``create``: an environment and its first episode; ``data`` is its :class:`Header`.
- ``append``: one step to the episode's journal; ``data`` is its :class:`Entry`.
- ``extend``: the steps from ``seq`` on; ``entries`` are their entries.
- ``save``: the environment's state after a step, in place of the last one; ``data`` is a :class:`Snapshot`.
- ``begin``: another episode; ``data`` is the new :class:`Header`, the journal becomes empty.
- ``close``: the environment's end; ``data`` is the reason.
- ``put``: all of it at once, whatever was there: ``data`` is the :class:`Header`, ``entries`` the end of the journal; of
  steps before those only the number is kept, and the header has the state after them.
"""

RefusalReason = Literal["moved", "gone", "short", "stale", "closed", "conflict", "full", "broken"]
"""
- ``moved``: the slot has another owner.
- ``gone``: nothing is known of the environment: the store lost it.
- ``short``: the journal has fewer entries than it should: the store lost some.
- ``stale``: a later episode has begun.
- ``closed``: the environment was closed.
- ``conflict``: there is another entry in this place.
- ``full``: the store has no room; ends of environments are written all the same.
- ``broken``: the store does not take the write, for a reason that nobody thought of.
"""


def record_of(kind: type[RecordT], text: str | bytes) -> RecordT:
    """Make a record of the JSON of its fields; those of a later version are passed over.

    Raises:
        ValueError: It is no JSON.
        TypeError: It is no object, or a field is missing.
    """
    fields = orjson.loads(text)
    return kind(**{name: fields[name] for name in kind.__dataclass_fields__ if name in fields})


class Write(NamedTuple):
    """One change; it gives the same result when it is made twice."""

    kind: WriteKind
    env_id: str
    slot: int
    episode: int
    seq: int
    """Number of the step that is appended or saved, the first one for ``extend``; the number of steps taken for ``put``;
    else 0."""
    data: bytes
    entries: tuple[bytes, ...] = ()


class Refusal(NamedTuple):
    """A write that was not made."""

    position: int
    """Its position."""
    reason: RefusalReason


class Saved(NamedTuple):
    """What is kept of an environment."""

    header: bytes | None
    """None when there is no such environment, or it was closed."""
    entries: list[bytes]
    """The end of the journal, from the step that led to the snapshot on, or all of it; empty ones of steps of which only
    the number is kept."""
    snapshot: bytes | None
    closed_as: str | None
    first: int = 0
    """Number of the step that is the first of the entries."""


@dataclass(frozen=True, slots=True)
class Header:
    """What it takes to begin an environment's present episode again."""

    env_name: str
    env_kwargs: Mapping[str, Any]
    """As they were asked for."""
    run_id: str | None
    ttl_s: float
    durability: str
    episode: int
    seed: int
    options: Any
    """Options of the reset."""
    created_at: float
    """Seconds since the epoch."""
    version: str
    """Of the software that wrote it."""
    resets: Sequence[str] = ()
    """Operations that began the last few episodes, the present one's last."""
    state: str | None = None
    """What the environment's ``snapshot`` gave at the beginning of the episode, or after ``state_seq`` steps."""
    earlier_resets: Sequence[Sequence[Any]] = ()
    """Operation, seed and options of the episodes right before, as far as the same call began them."""
    past_operations: Sequence[str] = ()
    """Operations that asked for steps of earlier episodes, the last few."""
    state_seq: int = 0
    """Steps of which only the number is kept: the journal begins with the state after them."""
    code: str = ""
    """Fingerprint of the code of the environment's kind."""
    state_format: str | None = None
    """Of the environment's snapshots, where it has any."""

    def to_json(self) -> bytes:
        """As it is kept."""
        return orjson.dumps(self, option=OPTIONS)

    @classmethod
    def from_json(cls, text: bytes) -> Header:
        """Undo :meth:`to_json`.

        Raises:
            ValueError: It is none.
        """
        try:
            return record_of(cls, text)
        except TypeError:
            raise ValueError("not the header of an environment") from None


class Entry(NamedTuple):
    """One applied step."""

    operation: bytes
    """What asked for it; empty if that had no id."""
    digest: bytes
    """See :func:`digest_of`."""
    action: bytes
    """As :mod:`~verl_agent_env.wire.actions` records it."""

    def to_bytes(self) -> bytes:
        """As it is kept: id and digest hold no line break."""
        return b"%b\n%b\n%b" % self

    @classmethod
    def from_bytes(cls, text: bytes) -> Entry:
        """Undo :meth:`to_bytes`.

        Raises:
            ValueError: It is none.
        """
        parts = text.split(b"\n", 2)
        if len(parts) != 3:
            raise ValueError("not an entry of a journal")
        return cls(*parts)


class AppliedStep(NamedTuple):
    """A step with what it takes to answer it once more."""

    operation: bytes
    """What asked for it, see :mod:`~verl_agent_env.wire.operations`; empty if that had no id."""
    action: bytes
    """As JSON."""
    answer: EncodedStep


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where an environment stands, and the answer that it gave last."""

    seq: int
    """Steps taken."""
    state: bytes
    """What the environment's ``snapshot`` gave: JSON."""
    last: AppliedStep
    earlier: tuple[AppliedStep, ...] = ()
    """Steps right before the last one that the same call asked for, if any."""
    past_operations: tuple[bytes, ...] = ()
    """Operations of the last few calls before that one."""

    def to_json(self) -> bytes:
        """As it is kept."""
        fields = [self.seq, self.state.decode(), *_step_fields(self.last)]
        if self.earlier or self.past_operations:
            fields.append([_step_fields(step) for step in self.earlier])
            fields.append([operation.decode("latin-1") for operation in self.past_operations])
        return orjson.dumps(fields)

    @classmethod
    def from_json(cls, text: bytes) -> Snapshot:
        """Undo :meth:`to_json`.

        Raises:
            ValueError: It is none.
        """
        try:
            fields = orjson.loads(text)
            seq, state, *last = fields[:9]
            earlier, past = fields[9:] or ((), ())
            return cls(
                seq,
                state.encode(),
                _step_from(last),
                tuple(map(_step_from, earlier)),
                tuple(operation.encode("latin-1") for operation in past),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError("not the snapshot of an environment") from None


def _step_fields(step: AppliedStep) -> list[Any]:
    operation, action, answer = step
    return [
        operation.decode("latin-1"),
        orjson.Fragment(action),
        orjson.Fragment(answer.observation),
        answer.reward,
        answer.terminated,
        answer.truncated,
        orjson.Fragment(answer.info),
    ]


def _step_from(fields: Sequence[Any]) -> AppliedStep:
    operation, action, observation, reward, terminated, truncated, info = fields
    answer = EncodedStep(orjson.dumps(observation), reward, terminated, truncated, orjson.dumps(info))
    return AppliedStep(operation.encode("latin-1"), orjson.dumps(action), answer)


_OUTCOME = struct.Struct("<dBQ").pack
_CODE = slice(17, 23)


def digest_of(answer: EncodedStep, seq: int, state: int | None, code: bytes) -> bytes:
    """Tell one step from another: a replay that comes to something else is found out.

    What the rules gave (reward, flags, number of the step, and the state after it, as ``s`` says), what was shown, and the
    fingerprint of the code are parts of it by themselves, all in hex digits.

    Args:
        answer: What was answered.
        seq: Number of the step.
        state: The environment's ``state_digest`` after it, where it has one.
        code: Fingerprint of its kind's code, six digits.
    """
    outcome = _OUTCOME(answer.reward, answer.terminated + 2 * answer.truncated, seq)
    shown = crc32(answer.info, crc32(answer.observation))
    if state is None:
        return b"%08x-%08x%b" % (crc32(outcome), shown, code)
    return b"%08xs%08x%b" % (crc32(outcome, state), shown, code)


def agrees(recorded: bytes, answer: EncodedStep, seq: int, state: int | None, code: bytes) -> bool:
    """Whether a step that was played again came to what was recorded of it, in what the rules gave and in state.

    How it is shown belongs to the code: that is compared where it is the same. A state that could not be had when the step
    was recorded is not compared.
    """
    if recorded[8:9] == b"-":
        state = None
    replayed = digest_of(answer, seq, state, code)
    if recorded == replayed:
        return True
    return (
        recorded[:9] == replayed[:9] and recorded[_CODE] != replayed[_CODE] and len(recorded) == len(replayed)
    )
