"""Notes on episodes that go on: written one after another, read in this order, in memory that is used again."""

from __future__ import annotations

import pytest

from verl_agent_env.engine.episodes import notes as noting
from verl_agent_env.engine.episodes.notes import BeginningNote, StepNote, WrittenNotes
from verl_agent_env.wire.episodes import EpisodeEnd
from verl_agent_env.wire.results import EncodedReset, EncodedStep


def step(number: int, size: int = 100) -> StepNote:
    return StepNote("a", b"%d" % number, float(number), EncodedStep(b"s" * size, 0.0, False, False, b"{}"))


def actions(written: WrittenNotes) -> list[bytes]:
    return [note.action for note in written.read() if isinstance(note, StepNote)]


def test_notes_are_read_as_they_were_written_in_their_order() -> None:
    written = WrittenNotes()
    beginning = BeginningNote("a", 1.0, EncodedReset(b"[]", b"{}"), 0, None)
    written.write([beginning, step(0)])
    written.write([step(1), step(2)])
    assert (len(written), written.num_bytes > 200) == (2, True)
    first, second = written.read()
    assert isinstance(first, BeginningNote)
    assert isinstance(second, StepNote)
    assert (first.beginning and first.beginning.observation, second.answer.observation) == (b"[]", b"s" * 100)
    assert actions(written) == [b"1", b"2"]
    assert (len(written), written.num_bytes) == (0, 0)
    with pytest.raises(IndexError):
        written.read()


@pytest.mark.parametrize("lag", [0, 1, 40])
def test_memory_that_was_read_is_written_again(monkeypatch: pytest.MonkeyPatch, lag: int) -> None:
    monkeypatch.setattr(noting, "_PIECE_BYTES", 1_000)
    written, seen, pieces = WrittenNotes(), [], set()
    for number in range(300):
        # Some are larger than a piece.
        written.write([step(number, 3_000 if number % 50 == 7 else 100)])
        pieces.add(id(written._piece.obj) if len(written._piece) == 1_000 else 0)
        if len(written) > lag:
            seen += actions(written)
    while len(written):
        seen += actions(written)
    assert seen == [b"%d" % number for number in range(300)]
    assert len(pieces) <= 3 + lag // 5


def test_so_much_memory_is_kept_for_new_notes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noting, "_PIECE_BYTES", 1_000)
    monkeypatch.setattr(noting, "_SPARE_PIECES", 2)
    written = WrittenNotes()
    for number in range(100):
        written.write([step(number)])
    while len(written):
        written.read()
    assert len(written._spare) == 2


def test_what_cannot_be_written_leaves_no_trace() -> None:
    written = WrittenNotes()
    written.write([step(0)])
    before = written.num_bytes
    end = EpisodeEnd("a", 0, "env", {"it": object()}, None, 0, None, None, 1, 2.0)
    with pytest.raises(TypeError):
        written.write([step(1), end])
    assert (len(written), written.num_bytes) == (1, before)
    written.write([step(2)])
    assert actions(written) + actions(written) == [b"0", b"2"]
