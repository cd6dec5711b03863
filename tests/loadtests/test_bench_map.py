"""The cost of reading the map is measured against a real Redis, and printed."""

from __future__ import annotations

import re

import pytest

from loadtests.bench_map import bench_map


def test_a_read_of_the_map_takes_some_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    bench_map(workers=2, hand_overs=2)
    shown = capsys.readouterr().out
    assert "4096" in shown
    # Three digits for each slot, at the least.
    sizes = [int(text.replace(",", "")) for text in re.findall(r"\d+,\d{3}", shown)]
    assert sizes
    assert sizes[0] > 3 * 4096
