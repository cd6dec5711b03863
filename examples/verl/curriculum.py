"""Trains with rows drawn uniformly and by pass rates, and says whether the curriculum raised the speed of learning.

    python examples/verl/curriculum.py --out out/verl/curriculum

All trainings begin with the data and the model of the first one, take the same number of steps, and are tested on the
same held-out problems. What is there already is not trained again, so it may be stopped and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import train
from repeated import mean_of, print_table, read_curves, speed_of, train_missing

from verl_agent_env.integrations.verl.tiny.learning_curve import draw

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
    ways = {draws: functools.partial(drawn, draws) for draws in DRAWS}
    status = train_missing(
        options.out, options.task, ways, options.seeds, MADE, (*SETTINGS, *options.overrides)
    )
    if status:
        return status
    curves = read_curves(options.out, ways, options.seeds)
    print_table("Draws", curves)
    uniform, by_rate = (list(map(speed_of, curves[draws])) for draws in DRAWS)
    gains = [after - before for before, after in zip(uniform, by_rate, strict=True)]
    print(f"Gain of {DRAWS[1]} while training, seed by seed: " + ", ".join(f"{gain:+.3f}" for gain in gains))
    draw({draws: mean_of(made) for draws, made in curves.items()}, options.out / "curves.png")
    return 0


@contextlib.contextmanager
def drawn(draws: str, folder: Path) -> Iterator[Sequence[str]]:
    """A training whose rows are drawn in one of both ways."""
    yield rule(draws, folder)


def rule(draws: str, folder: Path) -> tuple[str, ...]:
    """Return the overrides that choose how rows are drawn."""
    if draws == "uniform":
        return ()
    return (f"++data.env.curriculum={draws}", f"++data.env.run_id={folder.name}")


if __name__ == "__main__":
    # Whoever ends it, the server and verl end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
