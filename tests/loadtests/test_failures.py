"""What fails in a load test is counted, under its code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from loadtests.processes import ServerProcess, serving
from tests.children import forked_python


@pytest.fixture(scope="module")
def full_server() -> Iterator[ServerProcess]:
    """A server that takes 30 environments and no more."""
    with serving("--max-envs", "30") as server:
        yield server


def test_items_that_fail_in_an_answer_of_200_are_failures_named_by_their_code(
    full_server: ServerProcess, tmp_path: Path
) -> None:
    ended = forked_python(
        *("-m", "loadtests.run", "batch", "--episodes", "40", "--rounds", "1"),
        *("--host", f"http://127.0.0.1:{full_server.port}", "--out", str(tmp_path)),
    )
    summary = orjson.loads((tmp_path / "summary.json").read_bytes())
    assert ended.returncode == 1
    assert summary["failures"] == 10
    assert summary["created"] == summary["closed"] == 30
    assert "initialize: at_capacity" in ended.stdout + ended.stderr
