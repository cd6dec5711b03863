"""Print how evenly the ring spreads slots over workers, and how many slots move when one leaves or joins.

    python -m loadtests.bench_ring --trials 50

Each trial is another set of addresses, since the balance of a ring is luck of the addresses. Loads are shares of the
mean; moved slots are set against the least that any scheme can do, the slots of the worker that left or joined.
"""

import argparse
import operator
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from verl_agent_env.cluster.ring import Ring
from verl_agent_env.types import NUM_SLOTS

SIZES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Figures:
    """Of one number of workers, over all trials."""

    workers: int
    fullest: float
    """Load of the fullest worker, mean of the trials."""
    fullest_ever: float
    """The same in the worst trial."""
    emptiest: float
    left: float
    """Slots moved when one leaves, mean of the trials and of who leaves."""
    left_needlessly: int
    """Slots moved that the one who left did not have, all trials together."""
    joined: float
    joined_needlessly: int
    assignment_ms: float
    """To compute all slots anew after a change, CPU time."""


class Balance(NamedTuple):
    """How evenly slots lie on workers, as shares of the mean."""

    fullest: float
    emptiest: float


def balance(assignments: Sequence[str], workers: int) -> Balance:
    """Return the largest and the smallest load among ``workers``, some of which may have no slot."""
    counts = Counter(assignments)
    mean = len(assignments) / workers
    emptiest = min(counts.values()) if len(counts) == workers else 0
    return Balance(max(counts.values()) / mean, emptiest / mean)


def moved(before: Sequence[str], after: Sequence[str]) -> int:
    """Return how many slots have another address."""
    return sum(map(operator.ne, before, after))


def addresses(trial: int, workers: int) -> list[str]:
    """Of workers on nodes of four, in a network of their own for each trial."""
    return [f"10.{trial}.0.{10 + number // 4}:{8001 + number % 4}" for number in range(workers)]


def measure(workers: int, trials: int) -> Figures:
    """The figures of ``workers`` workers over ``trials`` sets of addresses."""
    loads, left, joined, spent_ms = [], [], [], []
    needless_left = needless_joined = 0
    for trial in range(trials):
        *present, newcomer = addresses(trial, workers + 1)
        before = Ring(present).assignments
        loads.append(balance(before, workers))
        for gone in present:
            began = time.process_time()
            after = Ring([address for address in present if address != gone]).assignments
            spent_ms.append((time.process_time() - began) * 1e3)
            left.append(moved(before, after))
            needless_left += left[-1] - before.count(gone)
        with_newcomer = Ring([*present, newcomer]).assignments
        joined.append(moved(before, with_newcomer))
        needless_joined += joined[-1] - with_newcomer.count(newcomer)
    return Figures(
        workers,
        fmean(load.fullest for load in loads),
        max(load.fullest for load in loads),
        fmean(load.emptiest for load in loads),
        fmean(left),
        needless_left,
        fmean(joined),
        needless_joined,
        fmean(spent_ms),
    )


def ring_table(trials: int) -> Table:
    """The figures of all sizes."""
    table = Table(title=f"{NUM_SLOTS} slots on the ring of nginx, {trials} sets of addresses")
    for heading in (
        "workers",
        "max/mean load",
        "in the worst set",
        "min/mean load",
        "moved, one leaves",
        "of them needlessly",
        "moved, one joins",
        "of them needlessly",
        "ms to recompute",
    ):
        table.add_column(heading, justify="right")
    for workers in SIZES:
        row = measure(workers, trials)
        table.add_row(
            str(row.workers),
            f"{row.fullest:.2f}",
            f"{row.fullest_ever:.2f}",
            f"{row.emptiest:.2f}",
            f"{row.left:.0f} ({row.left / NUM_SLOTS:.1%})",
            str(row.left_needlessly),
            f"{row.joined:.0f} ({row.joined / NUM_SLOTS:.1%})",
            str(row.joined_needlessly),
            f"{row.assignment_ms:.2f}",
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=50, help="sets of addresses, 1 to 250 (default: 50)")
    options = parser.parse_args()
    if not 1 <= options.trials <= 250:
        parser.error("--trials must be from 1 to 250")
    Console().print(ring_table(options.trials))


if __name__ == "__main__":
    main()
