"""Many live environments in a real cluster behind nginx, journalled: memory, what a round of calls costs, and the loss of a worker.

Two nodes of two workers, one Redis and nginx run as processes of this machine. All environments are stepped by calls of equal size,
one after the other, with ``seqs``. Then ``kill -9`` ends one worker in the middle of a call, and what failed is sent again until
all have answered. In the end every answer is compared with that of a single process, by the same seeds and actions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtests.bench_http import tool_call
from loadtests.bench_recovery import RETURN_S
from loadtests.chaos.episode import ENV_NAME, KWARGS, Episode, differs_from_reference
from loadtests.chaos.steering import worker_pid
from loadtests.processes import cpu_of_tree, descendants, pss_of
from loadtests.raw_client import Connection, connect, post
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.types import slot_of

MOST_ROUNDS = 10
"""The goal is fourteen moves away, and three more steps follow: no episode ends."""

_COLUMNS = ("observations", "rewards", "terminations", "truncations", "infos")
_RUN = "many"
_AGAIN_S = 0.1
_WIDTH = 130
_GIVE_UP_S = 120.0


@dataclass(frozen=True)
class Cost:
    """What a call took."""

    items: int
    elapsed_s: float
    cpu_s: dict[str, float]
    """CPU by kind of process."""


@dataclass
class Loss:
    """What the loss of a worker came to."""

    lost: int
    """Environments of the worker."""
    calls: list[Cost] = field(default_factory=list)
    """From the one on in which the worker was killed."""
    lost_answered_s: list[float] = field(default_factory=list)
    """Seconds after the loss at which environments of the worker answered."""
    answered_s: list[float] = field(default_factory=list)
    """The same of all environments."""
    refused: Counter[str] = field(default_factory=Counter)
    """Steps that were sent again, by code."""


@dataclass
class Outcome:
    """Everything that was measured."""

    environments: int
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes by kind of process, by when they were looked at."""
    processes: dict[str, int] = field(default_factory=dict)
    """Their number by kind."""
    made: list[Cost] = field(default_factory=list)
    """Calls that made environments."""
    stepped: list[Cost] = field(default_factory=list)
    """Calls that stepped them, with all workers there."""
    refused: Counter[str] = field(default_factory=Counter)
    """Steps that were sent again meanwhile, by code."""
    loss: Loss | None = None
    gone: Counter[str] = field(default_factory=Counter)
    """Steps that failed for good, by code."""
    differing: int = 0
    """Environments of which an answer is not that of a single process."""
    closed: int = 0

    @property
    def broken(self) -> list[str]:
        """What was promised and not kept, a sentence each."""
        found = [f"{count} steps failed for good: {code}" for code, count in self.gone.items() if count]
        if self.differing:
            found.append(f"{self.differing} environments answered otherwise than a single process")
        if self.closed != self.environments:
            found.append(f"{self.closed} of {self.environments} environments were there in the end")
        if self.loss is not None:
            missing = self.environments - len(self.loss.answered_s)
            if missing:
                found.append(f"{missing} environments did not answer after the loss")
            elif max(self.loss.answered_s) > RETURN_S:
                found.append(f"all had answered after {max(self.loss.answered_s):.1f} s, not {RETURN_S:g} s")
        return found


class Measurement:
    """A cluster, its environments, and one client."""

    def __init__(self, cluster: LocalCluster, client: Connection, count: int, progress: Progress) -> None:
        self.outcome = Outcome(count)
        self.episodes: list[Episode] = []
        self._cluster = cluster
        self._client = client
        self._progress = progress

    # --- what it costs --------------------------------------------------------------------------------------

    def look(self, when: str) -> None:
        """Note the memory of all processes."""
        cluster = self._cluster
        kinds = {
            "workers": [pid for node in cluster.nodes for pid in descendants(node.pid)],
            "supervisors of the nodes": [node.pid for node in cluster.nodes],
            "Redis": [cluster.redis.pid, *descendants(cluster.redis.pid)],
            "nginx": [cluster.nginx.pid, *descendants(cluster.nginx.pid)],
        }
        self.outcome.processes = {kind: len(pids) for kind, pids in kinds.items()}
        self.outcome.memory[when] = {kind: sum(map(pss_of, pids)) for kind, pids in kinds.items()}

    def _cpu_s(self) -> dict[str, float]:
        return {
            "nodes": sum(cpu_of_tree(node.pid) for node in self._cluster.nodes),
            "Redis": cpu_of_tree(self._cluster.redis.pid),
            "nginx": cpu_of_tree(self._cluster.nginx.pid),
        }

    @contextlib.contextmanager
    def _measured(self, costs: list[Cost], items: int) -> Iterator[None]:
        before, began = self._cpu_s(), time.perf_counter()
        yield
        elapsed_s = time.perf_counter() - began
        used_s = {kind: used - before[kind] for kind, used in self._cpu_s().items()}
        costs.append(Cost(items, elapsed_s, used_s))

    # --- calls ----------------------------------------------------------------------------------------------

    async def make(self, batch_size: int) -> None:
        """Make the environments, with a seed of its own for each."""
        count = self.outcome.environments
        for start in self._progress.track(range(0, count, batch_size), description="made"):
            seeds = list(range(start, min(start + batch_size, count)))
            body = {"env_name": ENV_NAME, "env_kwargs": KWARGS, "seeds": seeds, "run_id": _RUN}
            # With a key: the same call makes the same environments, and none twice.
            request = post("/api/batch/initialize", orjson.dumps(body), key=f"{_RUN}-{start}")
            end, errors = time.perf_counter() + _GIVE_UP_S, [{"retryable": True}]
            while errors and all(error["retryable"] for error in errors) and time.perf_counter() < end:
                with self._measured(self.outcome.made, len(seeds)):
                    received = await self._client.send(request)
                answer = _document_of(received)
                errors = answer.get("errors", [answer])
            if errors:
                raise RuntimeError(str(errors[0]))
            self.episodes += [
                Episode(env_id, seed, say=_say) for env_id, seed in zip(answer["env_ids"], seeds, strict=True)
            ]

    async def step_all(self, batch_size: int, name: str) -> None:
        """Step every environment once."""
        for batch in self._batches(batch_size, name):
            await _exhausted(self._until_answered(batch, self.outcome.stepped, self.outcome.refused))

    async def lose_a_worker(self, batch_size: int) -> None:
        """Kill a worker in the middle of a call, then step every environment, again and again where it has to be."""
        address = self._cluster.nodes[-1].addresses[0]
        owners = Ring(sorted(self._cluster.addresses)).assignments
        lost = {e.env_id for e in self.episodes if owners[slot_of(e.env_id)] == address}
        loss = self.outcome.loss = Loss(len(lost))
        pid = await worker_pid(self._cluster, address)
        first = self._until_answered(self.episodes[:batch_size], loss.calls, loss.refused)
        under_way = asyncio.create_task(_exhausted(first))
        await asyncio.sleep(statistics.median(cost.elapsed_s for cost in self.outcome.stepped) / 2)
        os.kill(pid, signal.SIGKILL)
        killed_at = time.perf_counter()
        await under_way
        for batch in self._batches(batch_size, "stepped, a worker killed"):
            async for answered in self._until_answered(batch, loss.calls, loss.refused):
                after_s = time.perf_counter() - killed_at
                loss.answered_s += [after_s] * len(answered)
                loss.lost_answered_s += [after_s for episode in answered if episode.env_id in lost]

    async def _until_answered(
        self, waiting: list[Episode], costs: list[Cost], refused: Counter[str]
    ) -> AsyncIterator[list[Episode]]:
        """Take a step of each; gives those that a call answered, call by call, until all have been."""
        end = time.perf_counter() + _GIVE_UP_S
        while waiting and time.perf_counter() < end:
            request = _step_request(waiting)
            with self._measured(costs, len(waiting)):
                answer = await self._client.send(request)
            again = self._acknowledge(waiting, answer)
            refused.update(again.values())
            yield [episode for episode in waiting if episode.env_id not in again and not episode.lost]
            waiting = [episode for episode in waiting if episode.env_id in again]
            if waiting:
                await asyncio.sleep(_AGAIN_S)
        self.outcome.gone["no answer"] += len(waiting)

    async def close(self, batch_size: int) -> None:
        """Close all environments, and note of how many that was a success."""
        for batch in self._batches(batch_size, "closed"):
            request = post("/api/batch/close", orjson.dumps({"env_ids": [e.env_id for e in batch]}))
            end, closed = time.perf_counter() + _GIVE_UP_S, 0
            # Closing what is closed is a success as well.
            while closed < len(batch) and time.perf_counter() < end:
                closed = _document_of(await self._client.send(request)).get("closed", 0)
            self.outcome.closed += closed

    def compare(self) -> None:
        """Count environments of which an answer is not that of a single process."""
        self.outcome.differing = sum(
            map(differs_from_reference, self._progress.track(self.episodes, description="compared"))
        )

    def _acknowledge(self, batch: Sequence[Episode], answer: bytes) -> dict[str, str]:
        """Note the answers to a step of each; gives the ids of those that may be sent again, with their codes."""
        document = _document_of(answer)
        if "errors" not in document:
            # The call failed as a whole.
            nothing = [None] * len(batch)
            errors = [document | {"index": index} for index in range(len(batch))]
            document = dict.fromkeys(_COLUMNS, nothing) | {"errors": errors}
        failed = {error["index"]: error for error in document["errors"]}
        again = {}
        columns = [document[column] for column in _COLUMNS]
        for index, (episode, *row) in enumerate(zip(batch, *columns, strict=True)):
            error = failed.get(index)
            if error is None:
                episode.acknowledge(row)
            elif error["retryable"]:
                again[episode.env_id] = error["code"]
            else:
                episode.lost = error["code"]
                self.outcome.gone[error["code"]] += 1
        return again

    def _batches(self, batch_size: int, name: str) -> Iterator[list[Episode]]:
        starts = range(0, len(self.episodes), batch_size)
        for start in self._progress.track(starts, description=name):
            yield [episode for episode in self.episodes[start : start + batch_size] if not episode.lost]


def _document_of(answer: bytes) -> Any:
    return orjson.loads(answer.partition(b"\r\n\r\n")[2])


def _say(move: str) -> dict[str, Any]:
    return tool_call(f"move_{move}")


async def _exhausted(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass


def _step_request(batch: Sequence[Episode]) -> bytes:
    body = {
        "env_ids": [episode.env_id for episode in batch],
        "actions": [episode.next_action() for episode in batch],
        "seqs": [episode.seq for episode in batch],
    }
    return post("/api/batch/step", orjson.dumps(body))


async def bench_many(count: int, batch_size: int, rounds: int) -> bool:
    """Measure everything, and print the tables.

    Args:
        count: Live environments.
        batch_size: Environments of a call.
        rounds: How often all are stepped before the loss; 1 to :data:`MOST_ROUNDS`.

    Returns:
        Whether nothing was lost or wrong, and all answered in time after the loss.

    Raises:
        ValueError: There are too many rounds, or none.
    """
    if not 1 <= rounds <= MOST_ROUNDS:
        raise ValueError(f"rounds must be from 1 to {MOST_ROUNDS}")
    # The tables of a run that goes to a file are read later, somewhere wide enough.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        with console.status("starting"):
            cluster = stack.enter_context(LocalCluster(folder, nodes=2, workers=2))
        client = await connect(cluster.port)
        stack.callback(client.close)
        progress = stack.enter_context(Progress(console=console))
        measurement = Measurement(cluster, client, count, progress)
        measurement.look("empty")
        await measurement.make(batch_size)
        measurement.look("made")
        for number in range(rounds):
            await measurement.step_all(batch_size, f"stepped, {number + 1} of {rounds}")
        measurement.look(f"after {rounds} steps")
        await measurement.lose_a_worker(batch_size)
        # Whoever was stepped twice by one call, or not at all, refuses the next number.
        await measurement.step_all(batch_size, "stepped once more")
        measurement.look("after the loss")
        await measurement.close(batch_size)
        measurement.compare()
    for table in tables_of(measurement.outcome, batch_size):
        console.print(table)
    for line in measurement.outcome.broken:
        console.print(f"[red]{line}[/red]")
    if not measurement.outcome.broken:
        console.print("Nothing was lost, and every answer is that of a single process.")
    return not measurement.outcome.broken


# --- tables ------------------------------------------------------------------------------------------------


def tables_of(outcome: Outcome, batch_size: int) -> list[Table]:
    """What everything came to."""
    return [_memory_table(outcome), _calls_table(outcome, batch_size), _loss_table(outcome)]


def _memory_table(outcome: Outcome) -> Table:
    count = outcome.environments
    table = Table(title=f"Memory (Pss) of {count:,} live environments, MB", header_style="bold")
    table.add_column("processes")
    for column in (*outcome.memory, "bytes for one, made", "bytes for one, stepped"):
        table.add_column(column, justify="right")
    rows = {f"{number} × {kind}": [kind] for kind, number in outcome.processes.items()}
    rows["all"] = list(outcome.processes)
    for name, kinds in rows.items():
        sums = [sum(map(looked.__getitem__, kinds)) for looked in outcome.memory.values()]
        grown = [(sums[i] - sums[0]) / count for i in (1, 2)]
        table.add_row(name, *(f"{size / 1e6:,.0f}" for size in sums), *(f"{size:,.0f}" for size in grown))
    return table


def _calls_table(outcome: Outcome, batch_size: int) -> Table:
    table = Table(title=f"Calls of {batch_size:,} environments, one after the other", header_style="bold")
    kinds = list(outcome.made[0].cpu_s)
    for column in ("call", "number", "s, median", "s, longest", *(f"CPU s, {kind}" for kind in kinds), "µs of CPU for one"):  # fmt: skip
        table.add_column(column, justify="left" if column == "call" else "right")
    for name, costs in (("initialize", outcome.made), ("step", outcome.stepped)):
        elapsed_s = [cost.elapsed_s for cost in costs]
        means = [statistics.mean(cost.cpu_s[kind] for cost in costs) for kind in kinds]
        table.add_row(
            name,
            f"{len(costs)}",
            f"{statistics.median(elapsed_s):.2f}",
            f"{max(elapsed_s):.2f}",
            *(f"{mean:.3f}" for mean in means),
            f"{sum(means) * len(costs) / sum(cost.items for cost in costs) * 1e6:.1f}",
        )
    return table


def _loss_table(outcome: Outcome) -> Table:
    loss = outcome.loss
    assert loss is not None
    table = Table(title="kill -9 of one of four workers, in the middle of a call", header_style="bold")
    for column, justify in (("what", "left"), ("measured", "right"), ("allowed", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    endless = float("inf")
    for row in (
        ("environments of the worker", f"{loss.lost:,}", ""),
        ("the first of them answered, s", f"{min(loss.lost_answered_s, default=endless):.1f}", ""),
        ("all of them answered, s", f"{max(loss.lost_answered_s, default=endless):.1f}", ""),
        ("all environments answered, s", f"{max(loss.answered_s, default=endless):.1f}", f"{RETURN_S:g}"),
        ("calls until then", f"{len(loss.calls)}", ""),
        ("the longest of them, s", f"{max(cost.elapsed_s for cost in loss.calls):.1f}", ""),
        ("steps sent again", _shown(loss.refused), ""),
        ("steps sent again in all other calls", _shown(outcome.refused), ""),
        ("steps that failed for good", f"{outcome.gone.total():,}", "0"),
        ("environments with another answer than a single process", f"{outcome.differing:,}", "0"),
        ("environments closed in the end", f"{outcome.closed:,}", f"{outcome.environments:,}"),
    ):
        table.add_row(*row)
    return table


def _shown(refused: Counter[str]) -> str:
    return ", ".join(f"{count:,} {code}" for code, count in refused.items()) or "0"
