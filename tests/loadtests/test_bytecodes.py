"""The count of bytecodes: the same each time, and more where more is done."""

from __future__ import annotations

from loadtests.bytecodes import count


async def test_count_is_the_same_each_time_and_higher_where_episodes_are_kept() -> None:
    counted = await count(8)
    assert counted == await count(8)
    kept = await count(8, keeps_episodes=True)
    for what, counts in counted.items():
        assert 8 * 300 < counts.total() < kept[what].total() < 8 * 3000
    # Each step by its own request costs more than those of one request.
    assert counted["single"].total() > counted["batch"].total()
