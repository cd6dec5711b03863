"""The load tests themselves, small, against a real server."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.children import forked_python
from tests.loadtests.conftest import RunLoadTest
from tests.ports import free_port

_QUICK = ("--think-s", "0.1", "--gather-s", "0.02")


@pytest.mark.parametrize(
    "arguments",
    [
        ("rollout", "--episodes", "60", "--episodes-per-user", "20", "--run-time", "5s", *_QUICK),
        ("episode", "--episodes", "30", "--spawn-rate", "100", "--run-time", "5s", *_QUICK),
        ("batch", "--episodes", "100", "--rounds", "2", "--mix", "countdown"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_whole_episodes_are_played_without_an_error_and_nothing_stays_open(
    run_load_test: RunLoadTest, arguments: tuple[str, ...]
) -> None:
    ran = run_load_test(*arguments)
    assert ran.exit_code == 0, ran.printed
    assert ran.summary["failures"] == 0
    assert ran.summary["steps"] > 0
    assert ran.created == ran.closed == ran.summary["created"] > 0
    assert ran.live == 0
    if arguments[0] == "batch":
        assert ran.summary["most_alive"] == 100
        assert ran.summary["created"] == 200
        # Five equations at most, and hardly one of them is right.
        assert 800 < ran.summary["steps"] <= 1000


def test_each_stage_of_a_climb_through_a_cluster_of_its_own_has_its_figures(tmp_path: Path) -> None:
    ended = forked_python(
        *("-m", "loadtests.run", "climb", "--own-cluster", "--out", str(tmp_path), *_QUICK),
        *("--stages", "20:2,40:2", "--ramp-s", "1", "--episodes-per-user", "10"),
    )
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, printed
    summary = orjson.loads((tmp_path / "summary.json").read_bytes())
    assert summary["created"] == summary["closed"] > 0
    levels = summary["levels"]
    assert [level["episodes"] for level in levels] == [20, 40]
    for level in levels:
        assert level["steps"] > 0
        assert level["failures"] == 0
        assert 0 < level["p50_ms"] <= level["p99_ms"]
        assert level["span_s"] >= 2
        assert set(level["cores"]) == {"load generator", "nodes", "Redis", "nginx"}
        assert level["cores"]["nodes"] > 0
    assert "all of their episodes were alive" in printed


def test_a_slower_step_than_allowed_fails_the_test_and_the_reports_show_it(
    run_load_test: RunLoadTest,
) -> None:
    ran = run_load_test("batch", "--episodes", "50", "--rounds", "1", "--max-p99-ms", "0.001")
    assert ran.exit_code == 1
    assert not ran.summary["passed"]
    assert "p99" in ran.summary["broken"][0]
    assert ran.live == 0
    assert "as an episode sees it" in (ran.out / "report.html").read_text()
    assert (ran.out / "timeline.json").stat().st_size > 0
    for name in ("throughput.png", "latency.png", "episodes.png"):
        assert (ran.out / name).read_bytes().startswith(b"\x89PNG")


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    ended = forked_python("-m", "loadtests.run", "batch", "--host", host, "--out", str(tmp_path))
    assert ended.returncode == 2
    assert host in ended.stderr
