"""Runs of the simulated cluster, in which a seed decides what happens, and what is left of one that fails.

``python -m tests.sim.runs --runs 100000 --seed 1`` makes as many, and says how far it is.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.sim.machine import ClusterMachine, Kind, LosingMachine
from tests.sim.small_cluster import small_cluster
from tests.sim.world import NUM_SLOTS

EVENTS = 14
"""What happens in a run, besides its beginning and its end."""
EVERY_DAY = 120
"""Runs of each machine in ``make test``; ``make deep`` makes a hundred thousand with this module's ``main``."""
_WEIGHTS = (0, 1, 1, 3)
"""How likely an event of one kind is against others, in one run."""
_SHARDS = (0, 0, 1, 2, 2)
"""How many logs there are beside the store in a run; without any, the store keeps the log."""
_REPORT_S = 10.0
MACHINES: dict[str, type[ClusterMachine]] = {"faults": ClusterMachine, "losses": LosingMachine}


class Event(NamedTuple):
    """A call of a machine's method."""

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


class Failure(NamedTuple):
    """A run in which something was not as it must be."""

    machine: type[ClusterMachine]
    shards: int
    events: Sequence[Event]
    error: Exception

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.machine.__name__}({self.shards})",
                *(f"    {event}" for event in self.events),
                repr(self.error),
            ]
        )


def first_failure(machine: type[ClusterMachine], seeds: Sequence[int]) -> Failure | None:
    """The first run of these seeds that fails, with as little happening as it takes; None if there is none."""
    with _silence():
        for seed in seeds:
            failure = _run_of(machine, seed)
            if failure is not None:
                return _smaller(failure)
    return None


def _run_of(machine: type[ClusterMachine], seed: int) -> Failure | None:
    chance = random.Random(f"{machine.__name__} {seed}")
    slots = [chance.randrange(NUM_SLOTS) for _ in range(chance.randint(1, 2))]
    # What can happen differs from run to run: some faults show only where others do not come in between.
    kinds = machine_kinds(machine)
    weights = [chance.choice(_WEIGHTS) for _ in kinds]
    shards = chance.choice(_SHARDS)

    def draw(made: ClusterMachine) -> Iterator[Event]:
        yield Event("begin", {"slots": slots})
        for _ in range(EVENTS):
            ((name, kind),) = chance.choices(list(kinds.items()), weights)
            if kind.condition(made.world):
                yield Event(name, {name: chance.choice(values) for name, values in kind.choices.items()})

    return _play(machine, shards, draw)


def machine_kinds(machine: type[ClusterMachine]) -> dict[str, Kind]:
    """All that may happen, by the names of the methods."""
    methods = {name: getattr(machine, name) for name in sorted(dir(machine)) if not name.startswith("_")}
    return {name: vars(method)["kind"] for name, method in methods.items() if "kind" in vars(method)}


def _play(
    machine: type[ClusterMachine], shards: int, draw: Callable[[ClusterMachine], Iterator[Event]]
) -> Failure | None:
    made = machine(shards)
    happened: list[Event] = []
    try:
        for event in draw(made):
            happened.append(event)
            getattr(made, event.name)(**event.arguments)
        made.world.finish()
    except Exception as error:  # noqa: BLE001 - it is what was looked for
        return Failure(machine, shards, happened, error)
    finally:
        made.world.end()
    return None


def _smaller(failure: Failure) -> Failure:
    """Leave out whatever the failure does not need; the beginning stays."""
    place = len(failure.events) - 1
    while place > 0:
        failure = _again(failure, place) or failure
        place = min(place, len(failure.events)) - 1
    return failure


def _again(failure: Failure, without: int) -> Failure | None:
    """Let the same happen once more but for one event, and what is not possible without it."""
    kinds, events = machine_kinds(failure.machine), failure.events

    def draw(made: ClusterMachine) -> Iterator[Event]:
        yield events[0]
        for place, event in enumerate(events[1:], start=1):
            if place != without and kinds[event.name].condition(made.world):
                yield event

    return _play(failure.machine, failure.shards, draw)


@contextmanager
def _silence() -> Iterator[None]:
    """Nobody reads what is logged."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main() -> int:
    """Make runs of both machines in turn until one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="how many")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first one; each of the others has the next one"
    )
    parser.add_argument("--machine", choices=MACHINES, help="faults or losses alone")
    options = parser.parse_args()
    machines = [MACHINES[options.machine]] if options.machine else list(MACHINES.values())
    started = reported = time.monotonic()
    with small_cluster():
        for done in range(options.runs):
            seed = options.seed + done
            failure = first_failure(machines[seed % len(machines)], [seed])
            if failure is not None:
                sys.stdout.write(f"run {seed} fails: {failure}\n")
                return 1
            now = time.monotonic()
            if now - reported > _REPORT_S or done + 1 == options.runs:
                reported = now
                each_ms = 1000 * (now - started) / (done + 1)
                sys.stdout.write(f"{done + 1:,} of {options.runs:,} runs, {each_ms:.1f} ms each\n")
                sys.stdout.flush()
    sys.stdout.write("no violations\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
