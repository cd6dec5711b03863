"""Notes on episodes that go on: what a host notes while it steps environments, to be sorted out later."""

from __future__ import annotations

import msgspec

from verl_agent_env.wire.episodes import EpisodeEnd
from verl_agent_env.wire.results import EncodedReset, EncodedStep

NOTES_AT_ONCE = 256
"""Notes that are written as one piece of memory: so few that what they refer to is still in the processor's cache."""


class BeginningNote(msgspec.Struct, gc=False, eq=False, array_like=True, tag=0):
    """An episode began, or came from another worker."""

    env_id: str
    at: float
    """By the host's clock, as all times."""
    beginning: EncodedReset | None
    """What was observed first; None if it is not known."""
    first_seq: int
    """Number of the first step that will be noted."""
    last_answer: EncodedStep | None
    """Of the step before that."""


class StepNote(msgspec.Struct, gc=False, eq=False, array_like=True, tag=1):
    """A step was taken."""

    env_id: str
    action: bytes
    """As it was sent."""
    at: float
    answer: EncodedStep


class AbandonedNote(msgspec.Struct, gc=False, eq=False, array_like=True, tag=3):
    """An episode is not to be kept: it goes on elsewhere, or its environment never became live."""

    env_id: str


EpisodeNote = BeginningNote | StepNote | EpisodeEnd | AbandonedNote

read_notes = msgspec.msgpack.Decoder(list[EpisodeNote]).decode
"""Reads a list of notes that this process has written."""

_encoder = msgspec.msgpack.Encoder()
_buffer = bytearray()
"""Reused, so that it is in the cache, and that what is kept is written once."""


def write_notes(notes: list[EpisodeNote]) -> bytes:
    """Write notes as one piece of memory.

    Raises:
        TypeError, OverflowError: Keyword arguments of an environment cannot be written.
    """
    _encoder.encode_into(notes, _buffer)
    return bytes(_buffer)
