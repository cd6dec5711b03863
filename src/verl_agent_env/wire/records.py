"""Records of the event log: the history of a live environment, from which another worker can recover it."""

from __future__ import annotations

import struct
from binascii import hexlify
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from zlib import crc32

import orjson
from msgspec import Struct

from verl_agent_env.wire.codec import OPTIONS, encode_kept
from verl_agent_env.wire.results import EncodedStep

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RecordT = TypeVar("RecordT", bound="DataclassInstance")

WriteKind = Literal["create", "append", "extend", "save", "begin", "close", "put", "result"]
"""
- ``create``: an environment and its first episode; ``data`` is its :class:`Header`.
- ``append``: one step of the episode; ``data`` is its :class:`Entry`.
- ``extend``: the steps from ``seq`` on; ``entries`` are their entries.
- ``save``: the environment's state after a step, which replaces the last one; ``data`` is a :class:`Snapshot`.
- ``begin``: the next episode; ``data`` is its :class:`Header`, and the entries of the last one are deleted.
- ``close``: the environment's end; ``data`` is the reason.
- ``put``: the whole history, which replaces the present one: ``data`` is the :class:`Header`, ``entries`` are the last
  steps; of the steps before them only the number is kept, and the header has the state after them.
- ``result``: the end of the episode, counted once: ``data`` is a :class:`~verl_agent_env.wire.task_results.TaskResult`. It is
  written before the last step, so that no acknowledged episode is left out.
"""

RefusalReason = Literal["moved", "gone", "short", "stale", "closed", "conflict", "full", "broken"]
"""
- ``moved``: the slot has another owner.
- ``gone``: the environment is unknown: the store lost it.
- ``short``: earlier steps are missing: the store lost them.
- ``stale``: a later episode has begun.
- ``closed``: the environment was closed.
- ``conflict``: another step is recorded at this position.
- ``full``: the store has no memory left; closings are still written.
- ``broken``: the store refused the write for an unexpected reason.
"""


def record_of(kind: type[RecordT], text: str | bytes) -> RecordT:
    """Decode a dataclass from the JSON of its fields; fields of later versions are ignored.

    Raises:
        ValueError: The text is not JSON.
        TypeError: The text is not an object, or a field is missing.
    """
    fields = orjson.loads(text)
    return kind(**{name: fields[name] for name in kind.__dataclass_fields__ if name in fields})


class Write(Struct, frozen=True, gc=False):
    """One idempotent change of an environment's history."""

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
    """A refused write."""

    position: int
    """Position among the writes of the call."""
    reason: RefusalReason


class Saved(NamedTuple):
    """The loaded history of an environment."""

    header: bytes | None
    """None if the environment is unknown or closed."""
    entries: list[bytes]
    """Entries from the step before the snapshot on, or all of them; empty for steps of which only the number is kept."""
    snapshot: bytes | None
    closed_as: str | None
    first: int = 0
    """Number of the first entry's step."""


@dataclass(frozen=True, slots=True)
class Header:
    """The arguments from which the present episode can be begun again."""

    env_name: str
    env_kwargs: Mapping[str, Any]
    """Keyword arguments as the client sent them."""
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
    """Version of the software that wrote the header."""
    resets: Sequence[str] = ()
    """Operation ids of the resets that began the last few episodes, the present one's last."""
    state: str | None = None
    """The environment's ``snapshot`` at the beginning of the episode, or after ``state_seq`` steps."""
    earlier_resets: Sequence[Sequence[Any]] = ()
    """Operation id, seed and options of the preceding episodes that the same request began."""
    past_operations: Sequence[str] = ()
    """Operation ids of the last few steps of earlier episodes."""
    state_seq: int = 0
    """Number of steps that have no entries: the history begins with the state after them."""
    reward_sum: float = 0.0
    """Sum of the rewards of these steps."""
    code: str = ""
    """Fingerprint of the code of the environment's kind."""
    state_format: str | None = None
    """Format of the environment's snapshots; None if it has none."""
    effects: Any = None
    """Outcomes of the calls to the outside that the reset made; None if there were none."""

    def to_json(self) -> bytes:
        """Encode the record."""
        return orjson.dumps(self, option=OPTIONS)

    @classmethod
    def from_json(cls, text: bytes) -> Header:
        """Undo :meth:`to_json`.

        Raises:
            ValueError: The text is something else.
        """
        try:
            return record_of(cls, text)
        except TypeError:
            raise ValueError("not the header of an environment") from None


class Entry(NamedTuple):
    """An applied step, as it is recorded."""

    operation: bytes
    """Operation id; empty if the request had none."""
    digest: bytes
    """Digest of the result (:func:`digest_of`)."""
    action: bytes
    """Action, as :mod:`~verl_agent_env.wire.actions` records it."""

    def to_bytes(self) -> bytes:
        """Encode the entry in three lines; operation id and digest have no line breaks."""
        return b"%b\n%b\n%b" % self

    @classmethod
    def from_bytes(cls, text: bytes) -> Entry:
        """Undo :meth:`to_bytes`.

        Raises:
            ValueError: The text is something else.
        """
        parts = text.split(b"\n", 2)
        if len(parts) != 3:
            raise ValueError("not an entry of a journal")
        return cls(*parts)


class AppliedStep(NamedTuple):
    """An applied step with its result, for answering a repeated request."""

    operation: bytes
    """Operation id (:mod:`~verl_agent_env.wire.operations`); empty if the request had none."""
    action: bytes
    """Action, as JSON."""
    answer: EncodedStep


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an environment after a step, and the result of that step."""

    seq: int
    """Steps taken."""
    state: bytes
    """The environment's ``snapshot``, as JSON."""
    last: AppliedStep
    earlier: tuple[AppliedStep, ...] = ()
    """Preceding steps of the same request, if any."""
    past_operations: tuple[bytes, ...] = ()
    """Operation ids of the last few requests before that one."""
    reward_sum: float = 0.0
    """Sum of the rewards of all steps of the episode."""

    def to_json(self) -> bytes:
        """Encode the record."""
        fields = [self.seq, self.state.decode(), *_step_fields(self.last)]
        if self.earlier or self.past_operations or self.reward_sum:
            fields.append([_step_fields(step) for step in self.earlier])
            fields.append([operation.decode("latin-1") for operation in self.past_operations])
            fields.append(self.reward_sum)
        return orjson.dumps(fields)

    @classmethod
    def from_json(cls, text: bytes) -> Snapshot:
        """Undo :meth:`to_json`.

        Raises:
            ValueError: The text is something else.
        """
        try:
            fields = orjson.loads(text)
            seq, state, *last = fields[:9]
            earlier, past, reward_sum = fields[9:] or ((), (), 0.0)
            return cls(
                seq,
                state.encode(),
                _step_from(last),
                tuple(map(_step_from, earlier)),
                tuple(operation.encode("latin-1") for operation in past),
                reward_sum,
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
    answer = EncodedStep(encode_kept(observation), reward, terminated, truncated, encode_kept(info))
    return AppliedStep(operation.encode("latin-1"), encode_kept(action), answer)


_OUTCOME = struct.Struct("<dBQ").pack
_CHECKSUMS = struct.Struct(">II").pack
_CODE = slice(17, 23)


def digest_of(answer: EncodedStep, seq: int, state: int | None, code: bytes) -> bytes:
    """Return a digest of a step's result, by which a replay that diverges is detected.

    It has three parts, in hex digits: the outcome (reward, flags, number of the step and, if an ``s`` follows, the state
    after it), the observation and info, and the fingerprint of the code.

    Args:
        answer: Result of the step.
        seq: Number of the step.
        state: The environment's ``state_digest`` after the step, if it has one.
        code: Fingerprint of the kind's code, six digits.
    """
    outcome = _OUTCOME(answer.reward, answer.terminated + 2 * answer.truncated, seq)
    shown = crc32(answer.info, crc32(answer.observation))
    if state is None:
        return hexlify(_CHECKSUMS(crc32(outcome), shown), b"-", 4) + code
    return hexlify(_CHECKSUMS(crc32(outcome, state), shown), b"s", 4) + code


def agrees(recorded: bytes, answer: EncodedStep, seq: int, state: int | None, code: bytes) -> bool:
    """Tell whether a replayed step has the outcome and the state that were recorded.

    Observation and info depend on the code, and are compared only if the code is the same. The state is not compared if it
    was not available when the step was recorded.
    """
    if recorded[8:9] == b"-":
        state = None
    replayed = digest_of(answer, seq, state, code)
    if recorded == replayed:
        return True
    return (
        recorded[:9] == replayed[:9] and recorded[_CODE] != replayed[_CODE] and len(recorded) == len(replayed)
    )
