"""Bodies that are too long to be joined, sent piece by piece."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

MAX_JOINED_BYTES = 1024 * 1024
"""Length up to which a body is joined."""
_PIECE_BYTES = 256 * 1024
"""Length up to which short neighbours are joined; longer pieces are not copied."""


class Pieces:
    """A body in pieces, none of them empty; ``len`` is the length of the body."""

    __slots__ = ("_pieces", "_size")

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """Create a body of these pieces."""
        self._pieces = pieces
        self._size = sum(map(len, pieces))

    @classmethod
    async def gather(cls, parts: Sequence[bytes], turn: Callable[[], Awaitable[None]]) -> Pieces:
        """Join short neighbours in slices; ``turn`` is awaited after every few milliseconds of work."""
        pieces: list[bytes] = []
        first = size = copied = 0
        for position, part in enumerate(parts):
            if size and (len(part) >= _PIECE_BYTES or size >= _PIECE_BYTES):
                pieces.append(b"".join(parts[first:position]))
                copied += size
                first, size = position, 0
                if copied >= MAX_JOINED_BYTES:
                    await turn()
                    copied = 0
            size += len(part)
        pieces.append(b"".join(parts[first:]))
        return cls(list(filter(None, pieces)))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


Body = bytes | Pieces
"""Body of a response."""
