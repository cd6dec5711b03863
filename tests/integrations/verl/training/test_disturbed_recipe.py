"""Trainings on a cluster that is killed in parts: what is killed, and what is told of the curves."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest

from tests.children import ROOT

pytest.importorskip("hydra", reason="verl is not installed: make verl-test")
pytest.importorskip("matplotlib", reason="verl is not installed: make verl-test")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``examples/verl/disturbed.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "examples/verl"))
    return importlib.import_module("disturbed")


class _Program:
    """Notes what is done to a program."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name, self._done = name, done

    def kill(self) -> None:
        self._done.append(f"kill {self.name}")

    def start(self) -> None:
        self._done.append(f"start {self.name}")


class _Cluster:
    """Two nodes of two workers, which cannot be asked at first, and have no environments then."""

    def __init__(self, live: dict[str, list[int]]) -> None:
        self.done: list[str] = []
        self.asked = 0
        self.redis = _Program("redis", self.done)
        self.nodes = [_Program(name, self.done) for name in live]
        self._live = live

    def describe(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 1:
            raise ConnectionRefusedError
        nodes = []
        for number, (name, lives) in enumerate(self._live.items()):
            workers = [
                {"pid": 100 * number + each, "live_envs": 0 if self.asked == 2 else live}
                for each, live in enumerate(lives)
            ]
            nodes.append({"name": name, "workers": workers})
        return {"nodes": nodes}


def await_that(holds: Callable[[], bool]) -> None:
    """Wait until something holds, at most a minute."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_a_node_and_redis_are_killed_in_turn_each_where_most_environments_are(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = _Cluster({"node-1": [5, 4], "node-2": [7, 1]})
    monkeypatch.setattr(os, "kill", lambda pid, number: cluster.done.append(f"{number.name} {pid}"))
    disturbance = recipe.Disturbance(cluster, every_s=0.0)
    disturbance.start()
    await_that(lambda: len(disturbance.kills) >= 4)
    disturbance.end()
    one_turn = ["SIGKILL 100", "kill node-1", "start node-1", "kill redis", "start redis"]
    assert cluster.done[:6] == [*one_turn, "SIGKILL 100"]
    assert [(kill.kind, kill.live) for kill in disturbance.kills[:4]] == [
        ("worker", 7),
        ("node", 9),
        ("redis", 17),
        ("worker", 7),
    ]


def test_nothing_is_killed_where_there_is_nothing_to_disturb_and_what_was_killed_is_started_at_the_end(
    recipe: ModuleType,
) -> None:
    idle = _Cluster({"node-1": [1], "node-2": [2]})
    disturbance = recipe.Disturbance(idle, every_s=0.0)
    disturbance.start()
    await_that(lambda: idle.asked >= 4)
    disturbance.end()
    assert (idle.done, disturbance.kills) == ([], [])

    busy = _Cluster({"node-1": [8]})
    disturbance = recipe.Disturbance(busy, every_s=600.0, kinds=("node",), away_s=600.0)
    disturbance.start()
    await_that(lambda: busy.done == ["kill node-1"])
    disturbance.end()
    assert busy.done == ["kill node-1", "start node-1"]


def test_trainings_that_are_there_are_told_with_their_kills_and_how_far_apart_they_are(
    recipe: ModuleType,
    note_training: Callable[[Path, Sequence[float]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    success = {"left_alone": [[0.25, 0.5], [0.25, 1.0]], "disturbed": [[0.25, 0.75], [0.5, 1.0]]}
    for name, of_seeds in success.items():
        for seed, values in enumerate(of_seeds, 1):
            folder = tmp_path / f"{name}-{seed}"
            note_training(folder, values)
            kills = [{"kind": kind, "live": live, "at_s": 1.0} for kind, live in (("node", 9), ("redis", 30))]
            (folder / "kills.json").write_bytes(orjson.dumps(kills[:seed]))
    assert recipe.main(["--out", str(tmp_path), "--seeds", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "| disturbed | mean | 0.38 | 0.88 | 0.88 |" in told
    assert told[-4:] == [
        "Seed 1: 0 × worker, 1 × node, 0 × redis; 9 to 9 live environments each time.",
        "Seed 2: 0 × worker, 1 × node, 1 × redis; 9 to 30 live environments each time.",
        "Step 0: means +0.125 apart; seeds left alone 0.000 apart.",
        "Step 4: means +0.125 apart; seeds left alone 0.500 apart.",
    ]
    assert (tmp_path / "curves.png").stat().st_size > 1_000
