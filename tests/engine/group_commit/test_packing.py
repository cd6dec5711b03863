"""Writes are cut into calls that the store takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_agent_env.engine.group_commit.packing import CallLimits, pack, size_of
from verl_agent_env.wire.records import Write

LIMITS = CallLimits(writes=4, entries=6, size=100)


def put(entries: list[bytes], header: bytes = b"header", env_id: str = "007-a") -> Write:
    return Write("put", env_id, 7, 2, len(entries), header, tuple(entries))


def test_what_fits_is_one_call_as_it_is() -> None:
    writes = [put([b"a", b"b"]), put([], env_id="007-b")]
    assert list(pack(writes, LIMITS)) == [writes]
    assert list(pack([], LIMITS)) == []


def test_long_history_becomes_a_put_and_extensions_of_it() -> None:
    calls = list(pack([put([b"%d" % seq for seq in range(14)])], LIMITS))
    assert [[(write.kind, write.seq, len(write.entries)) for write in call] for call in calls] == [
        [("put", 6, 6)],
        [("extend", 6, 6)],
        [("extend", 12, 2)],
    ]
    assert {write.episode for call in calls for write in call} == {2}


def test_entry_that_is_too_large_for_any_call_has_one_of_its_own() -> None:
    calls = list(pack([put([b"a", b"x" * 1000, b"b"])], LIMITS))
    assert [[write.entries for write in call] for call in calls] == [[(b"a",)], [(b"x" * 1000,)], [(b"b",)]]


@pytest.mark.parametrize("limits", [LIMITS, CallLimits()])
@given(
    sizes=st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=8),
    header=st.sampled_from([b"", b"x" * 30, b"x" * 200]),
)
def test_calls_say_all_of_it_in_order_and_keep_their_limits(
    limits: CallLimits, sizes: list[list[int]], header: bytes
) -> None:
    writes = [put([b"e" * size for size in each], header, f"007-{nth}") for nth, each in enumerate(sizes)]
    calls = list(pack(writes, limits))
    said: dict[str, list[bytes]] = {}
    for call in calls:
        assert len(call) <= limits.writes
        assert sum(len(write.entries) for write in call) <= limits.entries
        assert len(call) == 1 or sum(map(size_of, call)) <= limits.size
        for write in call:
            if write.kind == "put":
                assert write.env_id not in said
                said[write.env_id] = []
            assert write.seq == len(said[write.env_id]) + (len(write.entries) if write.kind == "put" else 0)
            said[write.env_id] += write.entries
    assert said == {write.env_id: list(write.entries) for write in writes}
