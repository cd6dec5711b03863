"""The learning curve of a training, from verl's log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from verl_agent_env.integrations.datasets.tables import GREEDY_SUFFIX


@dataclass(frozen=True, slots=True)
class Curve:
    """Curve of one training; steps and values have equal lengths."""

    steps: list[int]
    """Steps at which the held-out problems were played; 0 is before the training."""
    sampled: list[float]
    """Success with tokens sampled as in training."""
    greedy: list[float]
    """Success with the likeliest tokens; may be empty."""
    train_steps: list[int]
    train_rewards: list[float]
    """Mean reward of the episodes of each training step."""
    step_s: list[float]
    """Seconds of each training step."""
    probability_gap: float
    """Largest difference between the probability of a token where it was sampled and where it is trained on."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of verl's ``file`` logger: ``step`` and ``data``."""
    if not path.exists():
        return []
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def curve_of(lines: Sequence[dict[str, Any]]) -> Curve:
    """Read the curve from a log."""
    curve = Curve([], [], [], [], [], [], 0.0)
    gaps = [0.0]
    for line in lines:
        step, data = int(line["step"]), line["data"]
        sampled, greedy = success_in(data)
        if sampled is not None:
            curve.steps.append(step)
            curve.sampled.append(sampled)
            curve.greedy.append(sampled if greedy is None else greedy)
        if "critic/score/mean" in data:
            curve.train_steps.append(step)
            curve.train_rewards.append(float(data["critic/score/mean"]))
            curve.step_s.append(float(data.get("timing_s/step", 0.0)))
        gaps.append(float(data.get("training/rollout_probs_diff_max", 0.0)))
    return replace(curve, probability_gap=max(gaps))


def success_in(data: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return held-out success in one line of a log, sampled and greedy; ``None`` without validation."""
    found: dict[bool, float] = {}
    for name, value in data.items():
        # val-aux/<data source>/success/mean@<samples>
        parts = name.split("/")
        if parts[0].startswith("val") and parts[-2:-1] == ["success"] and parts[-1].startswith("mean@"):
            found["/".join(parts[1:-2]).endswith(GREEDY_SUFFIX)] = float(value)
    return found.get(False), found.get(True)


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Draw success over steps, sampled and greedy, and training rewards if they are from 0 to 1.

    The format is the path's suffix.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        colour = f"C{number}"
        axes.plot(curve.steps, curve.sampled, "o-", color=colour, label=f"{name}, sampled")
        if curve.greedy:
            axes.plot(curve.steps, curve.greedy, "s--", color=colour, alpha=0.6, label=f"{name}, greedy")
        if curve.train_rewards and all(0 <= reward <= 1 for reward in curve.train_rewards):
            axes.plot(
                curve.train_steps,
                curve.train_rewards,
                ":",
                color=colour,
                alpha=0.5,
                label=f"{name}, training reward",
            )
    axes.set(xlabel="training step", ylabel="success on held-out problems", ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
