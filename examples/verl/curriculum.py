"""Trains with rows drawn uniformly and by pass rates, and says whether the curriculum raised the speed of learning.

    python examples/verl/curriculum.py --out out/verl/curriculum

All trainings begin with the data and the model of the first one, take the same number of steps, and are tested on the
same held-out problems. What is there already is not trained again, so it may be stopped and started again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import train

from verl_agent_env.integrations.verl.tiny.learning_curve import Curve, curve_of, draw, read_log

DRAWS = ("uniform", "pass_rate")

# Few rows, so that each is played several times and has a pass rate before the training ends.
SETTINGS = (
    "data.train_max_samples=48",
    "data.train_batch_size=8",
    # Test rows come first, and then once more for greedy decoding, which is left out.
    "data.val_max_samples=256",
    "trainer.total_training_steps=24",
    "trainer.test_freq=6",
)
MADE = (
    "curation.train=8192",
    "curation.test=256",
    "curation.demonstrations=8192",
    "warm_start.steps=400",
    # One thread: two of them wait for each other wherever somebody else wants a core.
    "+warm_start.threads=1",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then print the table and draw the mean curves; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=train.TASKS, default="frozen_lake")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=Path("out/verl/curriculum"), help="folder of all trainings"
    )
    parser.add_argument("overrides", nargs="*", help="for verl, in every training")
    options = parser.parse_intermixed_args(arguments)
    first = options.out / f"{DRAWS[0]}-1"
    for seed in range(1, options.seeds + 1):
        for draws in DRAWS:
            folder = options.out / f"{draws}-{seed}"
            if (folder / "result.json").exists():
                continue
            train.console.print(f"{folder.name}:", highlight=False)
            begin = (f"--start={first}",) if (first / "model/config.json").exists() else MADE
            status = train.main(
                [
                    *(options.task, f"--out={folder}", f"--seed={seed}"),
                    *(*begin, *SETTINGS, *rule(draws, folder), *options.overrides),
                ]
            )
            if status:
                return status
    curves = {draws: read_curves(options.out, draws, options.seeds) for draws in DRAWS}
    print_table(curves)
    draw({draws: mean_of(made) for draws, made in curves.items()}, options.out / "curves.png")
    return 0


def rule(draws: str, folder: Path) -> tuple[str, ...]:
    """Return the overrides that choose how rows are drawn."""
    if draws == "uniform":
        return ()
    return (f"++data.env.curriculum={draws}", f"++data.env.run_id={folder.name}")


def read_curves(out: Path, draws: str, seeds: int) -> list[Curve]:
    """Return the curve of each seed."""
    return [curve_of(read_log(out / f"{draws}-{seed}" / "log.jsonl")) for seed in range(1, seeds + 1)]


def mean_of(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves with equal steps, of what was sampled alone."""
    sampled = [fmean(values) for values in zip(*(curve.sampled for curve in curves), strict=True)]
    return Curve(curves[0].steps, sampled, [], [], [], [], 0.0)


def print_table(curves: dict[str, list[Curve]]) -> None:
    """Print success on held-out problems, sampled, as a table of Markdown.

    Its last column is the mean over all steps but the first, at which nothing was trained: of two trainings that begin and end
    alike, the one that learns faster has more.
    """
    steps = curves[DRAWS[0]][0].steps
    print("| Draws | Seed | " + " | ".join(map(str, [*steps, "mean while training"])) + " |")
    print("|---" * (len(steps) + 3) + "|")
    for draws, made in curves.items():
        rows = [(str(seed), curve) for seed, curve in enumerate(made, 1)]
        for name, curve in (*rows, ("mean", mean_of(made))):
            values = " | ".join(f"{success:.2f}" for success in [*curve.sampled, speed_of(curve)])
            print(f"| {draws} | {name} | {values} |")
    uniform, by_rate = (list(map(speed_of, curves[draws])) for draws in DRAWS)
    gains = [after - before for before, after in zip(uniform, by_rate, strict=True)]
    print(f"Gain of {DRAWS[1]} while training, seed by seed: " + ", ".join(f"{gain:+.3f}" for gain in gains))


def speed_of(curve: Curve) -> float:
    """Return the mean success of all measurements after the first."""
    return fmean(curve.sampled[1:])


if __name__ == "__main__":
    # Whoever ends it, the server and verl end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
