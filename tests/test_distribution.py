"""Long tests are at the beginning of each process's share."""

from __future__ import annotations

import pytest

from tests.distribution import in_shares

Item = tuple[str, int]


@pytest.mark.parametrize("shares", [1, 2, 3, 6])
@pytest.mark.parametrize("num_short", [0, 1, 7, 500])
def test_each_share_begins_with_files_of_long_ones(shares: int, num_short: int) -> None:
    long = [(f"long-{file}", nth) for file in range(12) for nth in range(1 + file % 3)]
    items: list[Item] = [("short", nth) for nth in range(num_short)]
    items[num_short // 2 : num_short // 2] = long
    ordered = in_shares(items, shares, lambda item: item[0] != "short", lambda item: item[0])
    assert sorted(ordered) == sorted(items)
    if num_short < 500:
        return
    at, left = 0, len(items)
    for number in range(shares):
        size = left // (shares - number)
        share = ordered[at : at + size]
        at, left = at + size, left - size
        files = [name for name, _ in share]
        num_long = sum(name != "short" for name in files)
        assert "short" not in files[:num_long]
        # Shares differ by one file at most, and the tests of a file stay together in their order.
        assert abs(num_long - len(long) / shares) <= 3
        assert files[:num_long] == [
            name for name in dict.fromkeys(files[:num_long]) for _ in range(files.count(name))
        ]
        assert share[num_long:] == sorted(share[num_long:])
