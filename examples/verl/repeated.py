"""Trainings of one task in several ways, with several seeds each: what ``curriculum.py`` and ``disturbed.py`` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

import train

from verl_agent_env.integrations.verl.tiny.learning_curve import Curve, curve_of, read_log

Way: TypeAlias = Callable[[Path], AbstractContextManager[Sequence[str]]]
"""Called with the folder of a training: what lasts as long as the training, and gives its arguments for ``train.py``."""


def train_missing(
    out: Path, task: str, ways: Mapping[str, Way], seeds: int, made: Sequence[str], shared: Sequence[str]
) -> int:
    """Train each way with each seed, unless its folder ``out/WAY-SEED`` has a result already.

    Args:
        out: Folder of all trainings.
        task: Task of ``train.py``.
        ways: Each by its name; all trainings begin with the data and the model of the first way's seed 1.
        seeds: Seeds from 1 on.
        made: Arguments of the one training that makes data and model.
        shared: Arguments of all trainings.

    Returns:
        The exit status of the first training that failed, else 0.
    """
    first = out / f"{next(iter(ways))}-1"
    for seed in range(1, seeds + 1):
        for name, way in ways.items():
            folder = out / f"{name}-{seed}"
            if (folder / "result.json").exists():
                continue
            train.console.print(f"{folder.name}:", highlight=False)
            begin = (f"--start={first}",) if (first / "model/config.json").exists() else made
            with way(folder) as own:
                status = train.main([task, f"--out={folder}", f"--seed={seed}", *begin, *shared, *own])
            if status:
                return status
    return 0


def read_curves(out: Path, ways: Mapping[str, Way], seeds: int) -> dict[str, list[Curve]]:
    """Return the curves of each way, one for each seed."""
    return {
        name: [curve_of(read_log(out / f"{name}-{seed}" / "log.jsonl")) for seed in range(1, seeds + 1)]
        for name in ways
    }


def mean_of(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves with equal steps, of what was sampled alone."""
    sampled = [fmean(values) for values in zip(*(curve.sampled for curve in curves), strict=True)]
    return Curve(curves[0].steps, sampled, [], [], [], [], 0.0)


def speed_of(curve: Curve) -> float:
    """Return the mean success of all measurements after the first."""
    return fmean(curve.sampled[1:])


def print_table(title: str, curves: Mapping[str, Sequence[Curve]]) -> None:
    """Print success on held-out problems, sampled, as a table of Markdown.

    Its last column is the mean over all steps but the first, at which nothing was trained: of two trainings that begin and end
    alike, the one that learns faster has more.

    Args:
        title: Of the column with the names of the ways.
        curves: Curves of each way, one for each seed, with equal steps.
    """
    steps = next(iter(curves.values()))[0].steps
    print(f"| {title} | Seed | " + " | ".join(map(str, [*steps, "mean while training"])) + " |")
    print("|---" * (len(steps) + 3) + "|")
    for name, made in curves.items():
        rows = [(str(seed), curve) for seed, curve in enumerate(made, 1)]
        for seed, curve in (*rows, ("mean", mean_of(made))):
            values = " | ".join(f"{success:.2f}" for success in [*curve.sampled, speed_of(curve)])
            print(f"| {name} | {seed} | {values} |")
