"""Bodies in pieces: the same bytes as joined, long ones without a copy."""

from __future__ import annotations

import pytest

from verl_agent_env.wire.pieces import MAX_JOINED_BYTES, Pieces

LONG = b"x" * MAX_JOINED_BYTES


class Turns:
    """Counts the turns that were given to others."""

    count = 0

    async def __call__(self) -> None:
        self.count += 1


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"a", b"", b"b"],
        [LONG],
        [b"[", LONG, b",", LONG, b"]"],
        [b"abc"] * 10_000,
        [b"[", *[b"z" * 1000, b","] * 5000, LONG],
    ],
)
async def test_pieces_are_the_parts_in_order(parts: list[bytes]) -> None:
    pieces = await Pieces.gather(parts, Turns())
    assert bytes(pieces) == b"".join(parts) == b"".join(pieces)
    assert len(pieces) == len(bytes(pieces))
    assert all(pieces)


async def test_long_parts_are_not_copied_and_short_ones_are_joined() -> None:
    pieces = list(await Pieces.gather([b"[", LONG, b",", LONG, b"]"], Turns()))
    assert pieces[1] is LONG
    assert pieces[3] is LONG
    short = list(await Pieces.gather([b"y" * 100] * 30_000, Turns()))
    assert len(short) < 20
    assert max(map(len, short)) < MAX_JOINED_BYTES


async def test_others_have_turns_while_much_is_joined() -> None:
    turns = Turns()
    await Pieces.gather([b"y" * 1000] * 20_000, turns)
    assert turns.count >= 15
