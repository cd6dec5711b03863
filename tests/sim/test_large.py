"""The large simulated cluster, small: every event of the command, with nothing lost, and slots that move once when nodes join."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.workers import worker
from tests.sim import large
from tests.sim.wires import at_once
from tests.sim.world import World

NODES, WORKERS, ENVIRONMENTS, CLIENTS = 4, 2, 400, 12


@pytest.fixture(autouse=True)
def few_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it takes seconds."""
    monkeypatch.setattr(large, "CLIENTS", CLIENTS)


def made(only: str) -> large.Row:
    """The one row of this name."""
    (row,) = large.rows(NODES, WORKERS, ENVIRONMENTS, only)
    return row


def test_slots_move_once_when_nodes_join_in_a_moment() -> None:
    row = made("1 of 4 nodes joins")
    assert row.moves > 500
    assert row.moved_again == 0
    assert row.recovered >= row.moves * ENVIRONMENTS // 4096 // 2
    # What has changed is less than the whole, after each change.
    assert row.map_bytes < row.whole_bytes / 4
    # One round: little more than the second in which they come, and the one in which nobody does.
    assert row.rest_s < 4.0


def test_nodes_that_all_start_together_share_the_slots_in_one_round() -> None:
    row = made("4 of 4 nodes join")
    assert row.moved_again == 0
    assert row.rest_s < 4.0


def test_slots_of_a_lost_rack_have_owners_as_soon_as_its_leases_are_over() -> None:
    row = made("rack lost")
    assert 0 < row.moves < 4096
    assert row.rest_s < 8.0
    assert row.steps > 0
    assert max(missing for _, _, missing in row.history) > 0
    assert row.history[-1][1:] == (0, 0)


def test_halves_that_do_not_reach_each_other_lose_nothing() -> None:
    row = made("split in halves")
    # They go to the half that reaches the store, and come back.
    assert row.moves > 2048
    assert row.moved_again > 0


def test_environments_of_a_lost_log_are_written_again_into_the_one_that_takes_its_place() -> None:
    row = made("logs lost")
    # Every fourth slot is that log's.
    assert row.entered >= ENVIRONMENTS // 4
    assert row.moves == row.recovered == 0
    assert max(missing for _, _, missing in row.history) >= ENVIRONMENTS // 4
    assert row.history[-1][1:] == (0, 0)
    # The other slots' clients go on.
    assert row.steps > 0


def test_restart_of_all_nodes_one_after_the_other_loses_nothing() -> None:
    row = made("rolling restart")
    assert row.moves >= 4096
    assert row.recovered >= ENVIRONMENTS


def test_many_changes_in_a_moment_are_read_together(world: World) -> None:
    world.run(1.0)
    reads = world.simulated.calls["read_map"]
    for _ in range(40):
        at_once(world.simulated.store.heartbeat(worker(state="draining"), 100.0))
        world.run(0.001)
    world.run(0.2)
    # At once, after a pause, and what came since; of each of the two.
    assert 2 <= world.simulated.calls["read_map"] - reads <= 6


def test_command_prints_the_rows_and_draws_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--nodes", "3", "--workers", "1", "--environments", "60", "--out", str(tmp_path)]
    assert large.main([*arguments, "--only", "joins"]) == 0
    shown = capsys.readouterr()
    assert "1 of 3 nodes joins" in shown.out
    assert "no violations" in shown.out
    assert large.main([*arguments, "--only", "rack lost"]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}
    assert len(list(tmp_path.iterdir())) == 2


def test_command_says_that_a_rule_was_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(cluster: large.Large, nodes: int) -> None:
        """An environment is lost, and nobody knows of it."""
        kept = cluster.store.shards[0].log._kept
        kept.pop(next(iter(kept)))

    monkeypatch.setattr(large, "_lose_rack", lose)
    assert large.main(["--nodes", "2", "--workers", "1", "--environments", "20", "--only", "rack lost"]) == 1
    assert "broken:" in capsys.readouterr().out


def test_as_before_whole_maps_are_read_and_hand_overs_are_versions_of_their_own() -> None:
    (now,) = large.rows(NODES, WORKERS, ENVIRONMENTS, "4 of 4 nodes join")
    (before,) = large.rows(NODES, WORKERS, ENVIRONMENTS, "4 of 4 nodes join", as_before=True)
    assert before.map_bytes == before.whole_bytes
    assert before.versions > now.versions
