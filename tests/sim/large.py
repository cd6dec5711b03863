"""A simulated cluster of many nodes: what joins, losses, a split and a rolling restart take, and that nothing is lost.

``python -m tests.sim.large --nodes 100 --workers 8 --environments 1000000`` runs the workers' own code under virtual time, over a store
in memory. It prints a row for each event, and exits with 1 if a rule was broken. ``--only "rack lost"`` makes one row, ``--out FOLDER``
draws the pictures, ``--as-before`` reads whole maps and hands slots to one worker at a time, as soon as it has settled.

The environments are real ones of the simplest kind (:mod:`tests.sim.counting`), with their journals in the store. Calls of the
workers to the store take 2 ms and nothing is computed meanwhile: the seconds are those that the protocol waits, not those of machines.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import logging
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests import batch_calls
from tests.sim.counting import JOURNAL
from tests.sim.large_store import LargeStore
from tests.sim.world import Shape, Worker, World
from verl_agent_env.cluster.ring import ring_over
from verl_agent_env.cluster.store import holder_of
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest
from verl_agent_env.engine.group_commit.packing import LIMITS
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS

CLIENTS = 200
"""Environments of which every step is sent, remembered and compared."""
_WIDTH = 220
_LOOK_S = 0.25
"""How often it is looked whether a cluster has come to rest."""
_LONGEST_S = 120.0
"""In which it must."""
_AT_ONCE = 500
"""Environments that are made by one call."""
_RACK = 10
"""One node in so many is lost with a rack."""
_RESTARTED_AT_ONCE = 20
"""One node in so many is restarted at the same time as others."""
_SPLIT_S = 20.0
_LOGS = 4
"""Logs beside the store, where one is lost."""
_LOG_AWAY_S = 10.0
LOG_LOST = f"1 of {_LOGS} logs lost, an empty one after {_LOG_AWAY_S:g} s"
_MOMENT_S = 1.0
"""In which nodes join that join together."""


@dataclasses.dataclass
class Row:
    """What an event took."""

    name: str
    rest_s: float = 0.0
    """Virtual seconds until every slot and every environment is where it belongs."""
    versions: int = 0
    map_bytes: int = 0
    """Bytes of the map and its changes, read by all workers."""
    whole_bytes: int = 0
    """Bytes that whole maps would have had."""
    calls: Counter[str] = dataclasses.field(default_factory=Counter)
    moves: int = 0
    """Slots that got another owner."""
    moved_again: int = 0
    """Slots that got more than one."""
    recovered: int = 0
    """Environments that came to another worker."""
    entered: int = 0
    """Environments that a log had lost and got again."""
    steps: int = 0
    """Steps that clients were answered meanwhile."""
    cpu_s: float = 0.0
    """Seconds of CPU of the simulation."""
    history: list[tuple[float, int, int]] = dataclasses.field(default_factory=list, repr=False)
    """Seconds, slots without a live owner, and environments that are nowhere live or in no log, at each look."""


class Large:
    """A large simulated cluster, and clients that step some of its environments."""

    def __init__(
        self, workers: int, environments: int, *, num_slots: int = NUM_SLOTS,
        logs: int = 0, as_before: bool = False, say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.per_node = workers
        self.environments = environments
        self.say = say
        timing = Timing()
        if as_before:
            timing = dataclasses.replace(timing, gather_s=timing.settle_s)
        limits = HostLimits(max_envs=10**9, yield_after_s=1e6)
        self.world = World(logs, Shape(num_slots, timing, limits, LIMITS, workers))
        self.store = self.world.simulated = LargeStore(
            self.world.loop, logs, num_slots, LIMITS, as_before=as_before
        )
        self.world.violations = self.store.violations
        self._created = 0
        """Environments that there must be."""
        self._chance = random.Random(1)
        self.row = Row("")
        self._before: dict[str, Any] = {}

    # --- nodes ----------------------------------------------------------------------------------------------

    def start_nodes(self, nodes: Sequence[int], within_s: float = 0.0) -> None:
        """Start all workers of these nodes, one after the other."""
        places = [1 + node * self.per_node + worker for node in nodes for worker in range(self.per_node)]
        for place in places:
            self.world.start(place=place)
            if within_s:
                self.world.run(within_s / len(places))

    def workers_of(self, nodes: Sequence[int]) -> list[Worker]:
        """The workers of these nodes that run."""
        wanted = set(nodes)
        return [worker for worker in self.world.workers if (worker.place - 1) // self.per_node in wanted]

    def create(self) -> None:
        """Make the environments, in all slots alike."""
        world, ids = self.world, []
        for number in range(self.environments):
            slot = number % world.shape.num_slots
            ids.append(
                (slot, f"{slot:0{3 if world.shape.num_slots <= NUM_SLOTS else 4}x}-{number + (1 << 64):032x}")
            )
        by_worker: dict[int, list[str]] = {}
        owners = self._owners()
        for slot, env_id in ids:
            by_worker.setdefault(id(owners[slot]), []).append(env_id)
        workers = {id(worker): worker for worker in world.workers}
        made = 0
        for nth, (key, env_ids) in enumerate(by_worker.items()):
            for start in range(0, len(env_ids), _AT_ONCE):
                requests = [
                    CreateRequest(JOURNAL, 7, ttl_s=1e6, env_id=env_id)
                    for env_id in env_ids[start : start + _AT_ONCE]
                ]
                call = workers[key].spawn(batch_calls.create(workers[key].host, requests))
                results = world.loop.run_until_complete(_result_of(call))
                failed = [result for result in results if isinstance(result, Exception)]
                assert not failed, failed[0]
                made += len(results)
            if nth % 50 == 0:
                self.say(f"{made:,} of {self.environments:,} environments made")
        for _ in range(CLIENTS):
            slot = self._chance.randrange(world.shape.num_slots)
            client = world.create(slot, ttl_s=1e6)
            world.ask(client, owners[slot], "create")
        world.run(0.1)
        self._created = self.environments + CLIENTS

    def _owners(self) -> list[Worker]:
        workers = {worker.member.record.incarnation: worker for worker in self.world.workers}
        tokens = self.store.store._tokens
        return [workers[holder_of(tokens[slot])] for slot in range(self.world.shape.num_slots)]

    # --- measuring ------------------------------------------------------------------------------------------

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Count what happens until the cluster has come to rest."""
        self.say(f"{name} …")
        store = self.store
        store.begin()
        self.row, began, cpu = Row(name), self.world.loop.now, time.process_time()
        self._began = began
        steps = sum(client.confirmed for client in self.world.clients)
        yield
        self.rest()
        self.row.rest_s = self.world.loop.now - began
        self.row.versions, self.row.calls = store.versions, Counter(store.calls)
        self.row.map_bytes, self.row.whole_bytes = store.map_bytes, store.whole_bytes
        self.row.moves = sum(store.moves.values())
        self.row.moved_again = sum(count > 1 for count in store.moves.values())
        self.row.recovered, self.row.entered = store.loaded, store.entered
        self.row.steps = sum(client.confirmed for client in self.world.clients) - steps
        self.row.cpu_s = time.process_time() - cpu
        self.say(f"{name}: {self.row.rest_s:.2f} s, {self.row.cpu_s:.0f} s of CPU")

    def rest(self) -> None:
        """Let time pass until every slot and every environment is where it belongs.

        Raises:
            AssertionError: That takes too long.
        """
        end = self.world.loop.now + _LONGEST_S
        while not self.is_at_rest():
            assert self.world.loop.now < end, f"no rest for {_LONGEST_S:g} s: {self.row}"
            self.tick(_LOOK_S)

    def tick(self, seconds: float) -> None:
        """Let clients go on and time pass."""
        end = self.world.loop.now + seconds
        while self.world.loop.now < end:
            for client in self.world.clients:
                if not client.is_busy and client.can_step:
                    self.world.ask(client, self.world.worker_for(client), "step", client.confirmed)
            self.world.run(min(_LOOK_S, end - self.world.loop.now))
            live = {worker.member.record.incarnation for worker in self.world.workers if worker.is_up}
            tokens = self.store.store._tokens
            owned = sum(holder_of(token) in live for token in tokens.values())
            self.row.history.append(
                (self.world.loop.now - self._began, self.world.shape.num_slots - owned, self._missing())
            )

    def _missing(self) -> int:
        """The number of environments that are nowhere live, or in no log."""
        live = sum(len(w.host.env_table) for w in self.world.workers if w.is_up and w.side == 0)
        return max(0, self._created - min(live, self.store.count_kept))

    def is_at_rest(self) -> bool:
        """Whether the ring's worker owns every slot, all know it, and every environment is live."""
        world, store = self.world, self.store.store
        live = {worker.member.record.incarnation: worker.address for worker in world.workers}
        ring = ring_over(tuple(sorted(live.values())), world.shape.num_slots).assignments
        tokens = store._tokens
        return (
            len(tokens) == world.shape.num_slots
            and all(live.get(holder_of(token)) == ring[slot] for slot, token in tokens.items())
            and all(
                worker.member.cluster is not None and worker.member.cluster.version == store._version
                for worker in world.workers
            )
            and not self._missing()
        )

    def check(self) -> None:
        """Check that every environment lives once, where its slot is, and every client is where it left off.

        Raises:
            AssertionError: It is not so.
        """
        self.world.finish()
        self.rest()
        places: Counter[str] = Counter()
        for worker in self.world.workers:
            for env_id in worker.host.env_table.ids():
                places[env_id] += 1
        assert len(places) == self.store.count_kept == self._created, "environments are lost"
        assert set(places.values()) <= {1}, "an environment lives twice"
        assert not self.world.violations, self.world.violations


async def _result_of(task: asyncio.Task[Any]) -> Any:
    return await task


# --- the rows ---------------------------------------------------------------------------------------------------


def rows(nodes: int, workers: int, environments: int, *only: str, **options: Any) -> Iterator[Row]:
    """Let everything happen to clusters of this size; each event begins and ends with a cluster at rest.

    Raises:
        AssertionError: A rule was broken.
    """

    def is_wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    few = max(1, nodes // 10)
    for joining in sorted({1, few, nodes}):
        name = f"{joining} of {nodes} nodes join{'s' if joining == 1 else ''}"
        if is_wanted(name):
            yield _joins(name, nodes - joining, joining, workers, environments, **options)
    if is_wanted(LOG_LOST):
        yield _loses_log(nodes, workers, environments, **options)
    events = {"rack lost": _lose_rack, "split in halves": _split, "rolling restart": _restart_all}
    wanted = {name: happen for name, happen in events.items() if is_wanted(name)}
    if not wanted:
        return
    cluster = Large(workers, environments, **options)
    try:
        cluster.start_nodes(range(nodes))
        cluster._began = cluster.world.loop.now
        cluster.rest()
        cluster.create()
        for name, happen in wanted.items():
            with cluster.measured(name):
                happen(cluster, nodes)
            row = cluster.row
            cluster.check()
            yield row
            missing = [node for node in range(nodes) if not cluster.workers_of([node])]
            cluster.start_nodes(missing)
            cluster.rest()
    finally:
        cluster.world.end()


def _joins(name: str, there: int, joining: int, workers: int, environments: int, **options: Any) -> Row:
    cluster = Large(workers, environments if there else 0, **options)
    try:
        cluster._began = cluster.world.loop.now
        if there:
            cluster.start_nodes(range(there))
            cluster.rest()
            cluster.create()
        with cluster.measured(name):
            cluster.start_nodes(range(there, there + joining), _MOMENT_S)
        if there:
            cluster.check()
        row = cluster.row
        if not options.get("as_before"):
            assert not row.moved_again, f"{row.moved_again} slots moved more than once"
        return row
    finally:
        cluster.world.end()


def _loses_log(nodes: int, workers: int, environments: int, **options: Any) -> Row:
    cluster = Large(workers, environments, logs=_LOGS, **options)
    world = cluster.world
    try:
        cluster._began = world.loop.now
        cluster.start_nodes(range(nodes))
        cluster.rest()
        cluster.create()
        with cluster.measured(LOG_LOST):
            for worker in world.workers:
                worker.log_wires[0].is_cut = True
            cluster.store.shards[0].clear()
            cluster.tick(_LOG_AWAY_S)
            world.heal()
        row = cluster.row
        cluster.check()
        return row
    finally:
        world.end()


def _lose_rack(cluster: Large, nodes: int) -> None:
    for worker in cluster.workers_of(range(0, nodes, _RACK)):
        cluster.world.kill(worker)


def _split(cluster: Large, nodes: int) -> None:
    away = cluster.workers_of(range(nodes // 2, nodes))
    for worker in away:
        cluster.world.partition(worker)
        worker.side = 1
    cluster.tick(_SPLIT_S)
    for worker in away:
        worker.side = 0
    cluster.world.heal()
    # Nothing tells that they are back before their heartbeats do.
    cluster.tick(1.0)


def _restart_all(cluster: Large, nodes: int) -> None:
    at_once = max(1, nodes // _RESTARTED_AT_ONCE)
    world = cluster.world
    for first in range(0, nodes, at_once):
        cluster.say(f"{first} of {nodes} nodes restarted")
        group = list(range(first, min(nodes, first + at_once)))
        leaving = cluster.workers_of(group)
        drains = [worker.spawn(worker.member.drain()) for worker in leaving]
        while not all(drain.done() for drain in drains):
            cluster.tick(_LOOK_S)
        for worker in leaving:
            world.kill(worker, is_reported=True)
        cluster.start_nodes(group)
        cluster.rest()


# --- the command ------------------------------------------------------------------------------------------------


def table_of(found: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    table = Table()
    for title in ("event", "s to rest", "map versions", "slots moved", "twice", "environments moved", "written again", "map, MB read",
                  "as whole maps, MB", "map reads", "other calls", "client steps"):  # fmt: skip
        table.add_column(title, justify="left" if title == "event" else "right")
    for row in found:
        reads = row.calls["read_map"]
        table.add_row(
            row.name, f"{row.rest_s:.1f}", f"{row.versions:,}", f"{row.moves:,}", f"{row.moved_again:,}",
            f"{row.recovered:,}", f"{row.entered:,}", f"{row.map_bytes / 1e6:,.2f}", f"{row.whole_bytes / 1e6:,.0f}", f"{reads:,}",
            f"{row.calls.total() - reads:,}", f"{row.steps:,}",
        )  # fmt: skip
    return table


def draw(found: Sequence[Row], folder: Path) -> None:
    """Draw what was away at each time, and what the map took."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    events = [row for row in found if "join" not in row.name]
    if events:
        figure, axes = plt.subplots(len(events), 1, figsize=(8, 2.4 * len(events)), squeeze=False)
        for axis, row in zip(axes[:, 0], events, strict=True):
            seconds = [at for at, _, _ in row.history]
            axis.fill_between(seconds, [missing for _, _, missing in row.history], step="pre", alpha=0.6)
            axis.set_title(row.name, loc="left")
            axis.set_ylabel("environments\nnot live")
            axis.set_xlabel("seconds")
        figure.tight_layout()
        figure.savefig(folder / "large-cluster-events.png", dpi=110)
        plt.close(figure)
    joins = [row for row in found if "join" in row.name]
    if joins:
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.7 * len(joins)))
        places = range(len(joins))
        axis.barh(
            [p + 0.2 for p in places], [row.whole_bytes / 1e6 for row in joins], 0.38, label="whole maps"
        )
        axis.barh(
            [p - 0.2 for p in places], [row.map_bytes / 1e6 for row in joins], 0.38, label="what has changed"
        )
        axis.set_yticks(list(places), [row.name for row in joins])
        axis.set_xscale("log")
        axis.set_xlabel("MB read by all workers")
        axis.legend()
        figure.tight_layout()
        figure.savefig(folder / "large-cluster-map.png", dpi=110)
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the rows, print them, and say whether a rule was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=8, help="of each node")
    parser.add_argument("--environments", type=int, default=1_000_000)
    parser.add_argument("--slots", type=int, choices=(NUM_SLOTS, MANY_SLOTS), default=NUM_SLOTS)
    parser.add_argument("--only", action="append", default=[], help="rows whose name has this in it")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    parser.add_argument("--as-before", action="store_true", help="whole maps, and hand-overs one by one")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    logging.disable(logging.CRITICAL)
    gc.disable()
    found: list[Row] = []
    failure = ""
    try:
        for row in rows(
            options.nodes, options.workers, options.environments, *options.only,
            num_slots=options.slots, as_before=options.as_before,
            say=lambda line: console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {line}", highlight=False),
        ):  # fmt: skip
            found.append(row)
            gc.collect()
    except AssertionError as broken:
        failure = str(broken)
    Console(width=_WIDTH).print(table_of(found))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    console.print(f"{most:.1f} GB of memory at most")
    if options.out is not None:
        draw(found, options.out)
    if failure:
        sys.stdout.write(f"broken: {failure}\n")
        return 1
    sys.stdout.write("no violations\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
