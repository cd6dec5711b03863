"""Notes on episodes that go on: what a host notes while it steps environments, to be sorted out later."""

from __future__ import annotations

from collections import deque

import msgspec

from verl_agent_env.wire.episodes import EpisodeEnd
from verl_agent_env.wire.results import EncodedReset, EncodedStep

NOTES_AT_ONCE = 16
"""Notes that are written as one part: so few that what they refer to is still in the processor's nearest caches."""


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

_PIECE_BYTES = 1024 * 1024
_SPARE_PIECES = 64
"""Pieces of memory that stay to be written again."""


class WrittenNotes:
    """Notes that are written one after another into pieces of memory, and read in this order.

    A piece whose notes were read is written again: memory that the process has not had yet costs more to get from the kernel
    than what is written to it.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        """Bytes of what is written and was not read yet."""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[EpisodeNote])
        self._buffer = bytearray()
        """Reused, so that it is in the processor's cache, and that what is kept is written once."""
        self._parts: deque[tuple[memoryview, int, int]] = deque()
        """Piece, beginning and end of what was written at once."""
        self._piece = memoryview(b"")
        """The one that is being written, to ``_end``."""
        self._end = 0
        self._spare: list[memoryview] = []

    def __len__(self) -> int:
        return len(self._parts)

    def write(self, notes: list[EpisodeNote]) -> None:
        """Write notes as one part.

        Raises:
            TypeError, OverflowError: Keyword arguments of an environment cannot be written; nothing is.
        """
        self._encoder.encode_into(notes, self._buffer)
        size = len(self._buffer)
        begin, end = self._end, self._end + size
        if end > len(self._piece):
            self._piece = self._piece_for(size)
            begin, end = 0, size
        self._piece[begin:end] = self._buffer
        self._end = end
        self._parts.append((self._piece, begin, end))
        self.num_bytes += size

    def read(self) -> list[EpisodeNote]:
        """Take out the part that was written first.

        Raises:
            IndexError: There is none.
        """
        piece, begin, end = self._parts.popleft()
        notes = self._decoder.decode(piece[begin:end])
        self.num_bytes -= end - begin
        if piece is not self._piece and not (self._parts and self._parts[0][0] is piece):
            if len(piece) == _PIECE_BYTES and len(self._spare) < _SPARE_PIECES:
                self._spare.append(piece)
        elif not self._parts:
            self._end = 0
        return notes

    def _piece_for(self, size: int) -> memoryview:
        if size > _PIECE_BYTES:
            return memoryview(bytearray(size))
        return self._spare.pop() if self._spare else memoryview(bytearray(_PIECE_BYTES))
