"""``make bench`` runs the parts that are asked for, and the usual ones when none is."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests import bench, bench_sokoban


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that ran."""
    ran: list[str] = []

    def note(name: str) -> Any:
        async def part(*_: Any) -> None:
            ran.append(name)

        return part

    names = ("bench_steps", "bench_durable", "bench_large_calls", "bench_memory", "bench_cluster")
    for name in (*names, "show_a_million"):
        monkeypatch.setattr(bench, name, note(name))
    monkeypatch.setattr(bench_sokoban, "print_table", lambda *_: ran.append("levels"))
    return ran


def test_without_names_the_usual_parts_run(parts: list[str]) -> None:
    bench.main([])
    assert parts == ["bench_steps", "bench_durable", "bench_large_calls", "bench_memory", "levels"]


def test_named_parts_run_and_no_others(parts: list[str]) -> None:
    bench.main(["cluster", "memory"])
    assert parts == ["bench_memory", "bench_cluster"]


def test_unknown_part_is_told(parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["everything"])
    assert "there is no part 'everything'" in capsys.readouterr().err
    assert parts == []


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_broken_bound_of_recovery_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, is_kept: bool) -> None:
    async def measured(live: int) -> bool:
        assert live == 7
        return is_kept

    monkeypatch.setattr(bench, "bench_recovery", measured)
    if is_kept:
        bench.main(["recovery", "--live", "7"])
        return
    with pytest.raises(SystemExit) as ended:
        bench.main(["recovery", "--live", "7"])
    assert ended.value.code == 1
