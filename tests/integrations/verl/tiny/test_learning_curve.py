"""The curve is what verl wrote, sampled and greedy apart."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from verl_agent_env.integrations.verl.tiny.learning_curve import Curve, curve_of, draw, read_log

VALIDATION = {
    "val-aux/verl_env/frozen_lake-v1/success/mean@1": 0.25,
    "val-aux/verl_env/frozen_lake-v1-greedy/success/mean@1": 0.5,
    "val-aux/verl_env/frozen_lake-v1/turns/mean@1": 7.0,
}
STEP = {"critic/score/mean": 0.3, "timing_s/step": 4.0, "training/rollout_probs_diff_max": 1e-7}


def test_lines_become_a_curve(tmp_path: Path) -> None:
    lines = [
        {"step": 0, "data": VALIDATION},
        {"step": 1, "data": STEP},
        {"step": 2, "data": {**STEP, **VALIDATION, "training/rollout_probs_diff_max": 3e-7}},
    ]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b'\n{"step": 3, "da')
    assert curve_of(read_log(path)) == Curve(
        steps=[0, 2],
        sampled=[0.25, 0.25],
        greedy=[0.5, 0.5],
        train_steps=[1, 2],
        train_rewards=[0.3, 0.3],
        step_s=[4.0, 4.0],
        probability_gap=3e-7,
    )


def test_no_log_yet_is_no_line(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_curves_become_a_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curve.{suffix}"
    draw({"a": curve_of([{"step": 0, "data": VALIDATION}]), "b": curve_of([])}, path)
    assert path.stat().st_size > 5_000
