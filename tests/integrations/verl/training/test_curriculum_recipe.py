"""The comparison of draws: what is trained already is read, and told as a table and a picture."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.children import ROOT

pytest.importorskip("hydra", reason="verl is not installed: make verl-test")
pytest.importorskip("matplotlib", reason="verl is not installed: make verl-test")

SUCCESS = {
    "uniform-1": [0.25, 0.5, 0.5],
    "uniform-2": [0.25, 0.25, 0.5],
    "pass_rate-1": [0.25, 0.75, 0.75],
    "pass_rate-2": [0.25, 1.0, 0.75],
}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``examples/verl/curriculum.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "examples/verl"))
    return importlib.import_module("curriculum")


def test_trainings_that_are_there_are_not_run_again_and_their_means_are_told(
    recipe: ModuleType,
    note_training: Callable[[Path, Sequence[float]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, values in SUCCESS.items():
        note_training(tmp_path / name, values)
    assert recipe.main(["--out", str(tmp_path), "--seeds", "2"]) == 0
    *table, gains = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in table]
    assert rows[0] == ["Draws", "Seed", "0", "4", "8", "mean while training"]
    assert ["uniform", "mean", "0.25", "0.38", "0.50", "0.44"] in rows
    assert ["pass_rate", "2", "0.25", "1.00", "0.75", "0.88"] in rows
    assert ["pass_rate", "mean", "0.25", "0.88", "0.75", "0.81"] in rows
    assert gains.endswith("seed by seed: +0.250, +0.500")
    assert (tmp_path / "curves.png").stat().st_size > 1_000


def test_only_one_of_both_draws_by_pass_rates_and_each_training_is_a_run(recipe: ModuleType) -> None:
    folder = Path("out/pass_rate-3")
    assert recipe.rule("uniform", folder) == ()
    assert recipe.rule("pass_rate", folder) == (
        "++data.env.curriculum=pass_rate",
        "++data.env.run_id=pass_rate-3",
    )
