"""Trains on a cluster of two nodes that is left alone, and on one whose workers, nodes and Redis are killed again and again.

    python examples/verl/disturbed.py --seeds 2 --every 60 --out out/verl/disturbed

All trainings begin with the data and the model of the first one. What is there already is not trained again, so it may be
stopped and started again. Needs redis-server and nginx. In the end it says whether the curves of both kinds are further
apart than those of seeds that were left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import operator
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import train
from repeated import Way, mean_of, print_table, read_curves, train_missing

from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.cluster.programs import Program
from verl_agent_env.integrations.verl.tiny.learning_curve import draw

LEFT_ALONE, DISTURBED = "left_alone", "disturbed"
KINDS = ("worker", "node", "redis")
_FEWEST_ENVIRONMENTS = 4
"""Live environments without which a kill would disturb nothing."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed with ``kill -9``."""

    kind: str
    """One of :data:`KINDS`."""
    live: int
    """Environments that were live on it; of Redis, in the whole cluster."""
    at_s: float
    """Seconds since the disturbance began."""


class Disturbance(threading.Thread):
    """Kills a worker, a node and Redis in turn, each while it has live environments, and starts again what was killed."""

    def __init__(
        self, cluster: LocalCluster, every_s: float, kinds: Sequence[str] = KINDS, away_s: float = 0.0
    ) -> None:
        """Create it without starting it.

        Args:
            cluster: Whose processes are killed.
            every_s: Seconds between two kills, at least: it waits until there are environments to be disturbed.
            kinds: What is killed, in turn.
            away_s: Seconds after which a node or Redis is started again; a worker's supervisor starts it at once.
        """
        super().__init__()
        self._cluster, self._every_s, self._away_s = cluster, every_s, away_s
        self._kinds = itertools.cycle(kinds)
        self._ended = threading.Event()
        self.kills: list[Kill] = []
        """What was killed so far."""

    def run(self) -> None:
        """Kill, until it is told to end."""
        began = time.monotonic()
        for kind in self._kinds:
            while (live := self._strike(kind)) is None:
                if self._ended.wait(0.05):
                    return
            self.kills.append(Kill(kind, live, time.monotonic() - began))
            if self._ended.wait(self._every_s):
                return

    def end(self) -> None:
        """Do nothing more; everything has been started again when it returns."""
        self._ended.set()
        self.join()

    def _strike(self, kind: str) -> int | None:
        """Kill the one with most live environments; returns how many, or ``None`` if they were too few."""
        try:
            targets = self._targets(kind)
        except (OSError, ValueError, KeyError):
            # Whatever answers is being started again.
            return None
        live, kill = max(targets, key=operator.itemgetter(0), default=(0, None))
        if kill is None or live < _FEWEST_ENVIRONMENTS:
            return None
        kill()
        return live

    def _targets(self, kind: str) -> list[tuple[int, Callable[[], None]]]:
        """Return what could be killed: the live environments of each, and what kills it and has it start again."""
        nodes = self._cluster.describe()["nodes"]
        workers = [worker for node in nodes for worker in node["workers"]]
        if kind == "worker":
            return [(int(each["live_envs"]), functools.partial(_kill, int(each["pid"]))) for each in workers]
        if kind == "node":
            programs = {node.name: node for node in self._cluster.nodes}
            return [
                (_live(node["workers"]), functools.partial(self._restart, programs[node["name"]]))
                for node in nodes
            ]
        return [(_live(workers), functools.partial(self._restart, self._cluster.redis))]

    def _restart(self, program: Program) -> None:
        program.kill()
        self._ended.wait(self._away_s)
        program.start()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _live(workers: Sequence[dict[str, Any]]) -> int:
    return sum(int(worker["live_envs"]) for worker in workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then print the table and draw the curves; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=train.TASKS, default="frozen_lake")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two kills, at least")
    parser.add_argument("--away", type=float, default=5.0, help="seconds that a node or Redis stays away")
    parser.add_argument(
        "--start", type=Path, help="folder of another training: begin with its data and model, make none"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/verl/disturbed"), help="folder of all trainings"
    )
    parser.add_argument("overrides", nargs="*", help="for train.py, in every training")
    options = parser.parse_intermixed_args(arguments)
    # Overrides of data and model count for the training that makes them alone.
    made = [each for each in options.overrides if each.lstrip("+~").startswith(("curation.", "warm_start."))]
    shared = [each for each in options.overrides if each not in made]
    if options.start is not None:
        made.append(f"--start={options.start}")
    ways: dict[str, Way] = {
        LEFT_ALONE: left_alone,
        DISTURBED: functools.partial(disturbed, every_s=options.every, away_s=options.away),
    }
    status = train_missing(options.out, options.task, ways, options.seeds, made, shared)
    if status:
        return status
    curves = read_curves(options.out, ways, options.seeds)
    print_table("Cluster", curves)
    for seed in range(1, options.seeds + 1):
        kills = orjson.loads((options.out / f"{DISTURBED}-{seed}" / "kills.json").read_bytes())
        counted = Counter(kill["kind"] for kill in kills)
        lost = [kill["live"] for kill in kills]
        print(
            f"Seed {seed}: "
            + ", ".join(f"{counted[kind]} × {kind}" for kind in KINDS)
            + (f"; {min(lost)} to {max(lost)} live environments each time." if lost else ".")
        )
    for step, alone, other in zip(
        curves[LEFT_ALONE][0].steps,
        zip(*(curve.sampled for curve in curves[LEFT_ALONE]), strict=True),
        zip(*(curve.sampled for curve in curves[DISTURBED]), strict=True),
        strict=True,
    ):
        apart = sum(other) / len(other) - sum(alone) / len(alone)
        print(f"Step {step}: means {apart:+.3f} apart; seeds left alone {max(alone) - min(alone):.3f} apart.")
    draw({name: mean_of(of_seeds) for name, of_seeds in curves.items()}, options.out / "curves.png")
    return 0


@contextlib.contextmanager
def left_alone(folder: Path) -> Iterator[Sequence[str]]:
    """A training on a cluster of its own."""
    with LocalCluster(folder.absolute() / "cluster") as cluster:
        yield (f"--url={cluster.url}",)


@contextlib.contextmanager
def disturbed(folder: Path, every_s: float, away_s: float) -> Iterator[Sequence[str]]:
    """A training on a cluster of its own that is disturbed; ``kills.json`` says how."""
    with LocalCluster(folder.absolute() / "cluster") as cluster:
        disturbance = Disturbance(cluster, every_s, away_s=away_s)
        disturbance.start()
        try:
            yield (f"--url={cluster.url}",)
        finally:
            disturbance.end()
            (folder / "kills.json").write_bytes(orjson.dumps([asdict(kill) for kill in disturbance.kills]))


if __name__ == "__main__":
    # Whoever ends it, the cluster and verl end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
