"""The cost of reading the map is measured against a real Redis, and printed."""

from __future__ import annotations

import re

import pytest

from loadtests.bench_map import bench_map


def test_what_has_changed_takes_fewer_bytes_than_the_whole_map(capsys: pytest.CaptureFixture[str]) -> None:
    bench_map(workers=2, hand_overs=2)
    shown = capsys.readouterr().out
    assert "4096" in shown
    whole, handed_over, joined, nothing = (
        int(text.replace(",", "")) for text in re.findall(r"│\s+([\d,]+) │\s+\d+\.", shown)
    )
    # Three digits for each slot, at the least.
    assert whole > 3 * 4096
    assert whole > handed_over > joined > nothing > 0
