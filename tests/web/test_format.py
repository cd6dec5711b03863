"""How the page writes names, numbers and calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.web.scripts import evaluated, needs_node


@needs_node
@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("{}", "run"),
        ("{code: '1 + 1', n: 2}", 'run("1 + 1", 2)'),
        (r"{code: 'if x:\n    y()', n: [1]}", "run(\nif x:\n    y()\n, [1])"),
        ("'no JSON'", "run(no JSON)"),
    ],
)
def test_a_call_is_written_as_a_person_writes_it(tmp_path: Path, arguments: str, written: str) -> None:
    assert evaluated(tmp_path, ("format",), "callText", f"callText('run', {arguments})") == written


@needs_node
@pytest.mark.parametrize(
    ("value", "written"), [("-0.1", "−0.10"), ("1234567.891", "+1234567.89"), ("2e29", "+2.00e+29")]
)
def test_a_number_of_any_size_is_short(tmp_path: Path, value: str, written: str) -> None:
    assert evaluated(tmp_path, ("format",), "signed", f"signed({value})") == written
