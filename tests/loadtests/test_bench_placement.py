"""What a part costs is told from what batches of several sizes cost."""

from __future__ import annotations

import pytest
from rich.console import Console

from loadtests.bench_placement import Placed, line_through, table_of


def test_the_line_finds_the_cost_of_an_item_and_of_a_part() -> None:
    placed = [
        Placed(32, size, [], [10e-6 + 500e-6 * parts / size])
        for size, parts in ((10_000, 32), (1_000, 16), (160, 16))
    ]
    assert [batch.parts for batch in placed] == [32, 16, 16]
    assert line_through(placed) == pytest.approx((10e-6, 500e-6))
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table_of(placed))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in captured.get().splitlines()
        if "│" in line
    ]
    assert rows[0] == ["32", "10,000", "32", "11.6", "11.6"]
    assert rows[-4:] == [
        ["800", "10,000", "800", "–", "50.0"],
        ["800", "10,000", "156", "–", "17.8"],
        ["800", "1,000", "800", "–", "410.0"],
        ["800", "1,000", "16", "–", "18.0"],
    ]
