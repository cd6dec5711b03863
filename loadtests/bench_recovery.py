"""How soon the environments of a lost node answer again, and what bringing them back costs by their number."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from loadtests.bench_http import LAKE, initialize, tool_call
from loadtests.processes import cpu_of_tree
from loadtests.raw_client import Connection, connect, post
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.persistence import PersistenceOptions
from verl_agent_env.engine.persistence.recorder import LogShard
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.types import NUM_SLOTS, slot_of

RETURN_S = 20.0
"""Within which all environments of a lost node answer again."""
OTHERS_P99_S = 1.0
"""How long 99 of 100 calls on other environments take meanwhile, at most."""
GROWTH = 1.5
"""What an environment costs among the most, against one among the fewest, at most."""
SCALES = (16_384, 65_536, 131_072)

_STEPS = 5
_BATCH = 2_500
_CLIENTS = 4
_PROBES = 8
_PROBE_PAUSE_S = 0.02
_CALM_S = 5.0
_AGAIN_S = 0.1
_GIVE_UP_S = 120.0


@dataclass
class Loss:
    """What the loss of a node came to."""

    lost: int
    """Environments of the node."""
    cpu_s: float = 0.0
    """CPU of all processes that were left."""
    answered_at: list[float] = field(default_factory=list)
    """Seconds after the loss at which environments had answered, one for each."""
    calm: list[float] = field(default_factory=list)
    """Seconds of the calls on other environments before the loss."""
    meanwhile: list[float] = field(default_factory=list)
    """The same, from the loss to the last answer."""

    @property
    def all_s(self) -> float:
        """When all had answered; infinite if they have not."""
        return max(self.answered_at) if len(self.answered_at) == self.lost else float("inf")

    @property
    def others_p99_s(self) -> float:
        """How long 99 of 100 calls on others took at most."""
        return statistics.quantiles(self.meanwhile, n=100)[-1]


async def bench_recovery(count: int) -> bool:
    """Measure both, and print the tables.

    Args:
        count: Environments of the cluster.

    Returns:
        Whether all bounds were kept.
    """
    console = Console()
    costs = {number: await cost_of_recovery(number) for number in track(SCALES, "by number", console=console)}
    _print_costs(costs, console)
    growth = (costs[SCALES[-1]] / SCALES[-1]) / (costs[SCALES[0]] / SCALES[0])
    loss = await lose_a_node(count, console)
    _print_loss(loss, count, console)
    return growth <= GROWTH and loss.all_s <= RETURN_S and loss.others_p99_s <= OTHERS_P99_S


# --- a node of a cluster -----------------------------------------------------------------------------------


async def lose_a_node(count: int, console: Console) -> Loss:
    """Kill one of two nodes, and step its environments through the other one until all have answered."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        progress = stack.enter_context(Progress(console=console))
        cluster = LocalCluster(folder, nodes=2, workers=2)
        stack.callback(cluster.stop)
        await asyncio.to_thread(cluster.start)
        survivor, node = cluster.nodes
        env_ids = await _played(await connect(survivor.port), count, progress)
        owners = Ring(sorted(cluster.addresses)).assignments
        lost = [env_id for env_id in env_ids if owners[slot_of(env_id)] in node.addresses]
        others = sorted(set(env_ids).difference(lost))
        loss = Loss(len(lost))
        probing = [
            asyncio.create_task(_probe(survivor.port, others[number * len(others) // _PROBES], loss))
            for number in range(_PROBES)
        ]
        await asyncio.sleep(_CALM_S)
        loss.calm, loss.meanwhile = loss.meanwhile, []
        bar = progress.add_task("answered again", total=len(lost))
        left = [part.pid for part in (cluster.redis, survivor)]
        cpu, began = sum(map(cpu_of_tree, left)), time.perf_counter()
        await asyncio.to_thread(node.kill)

        async def bring_back(number: int) -> None:
            client, mine = await connect(survivor.port), lost[number::_CLIENTS]
            for start in range(0, len(mine), _BATCH):
                waiting = mine[start : start + _BATCH]
                while waiting and time.perf_counter() - began < _GIVE_UP_S:
                    failed = await _try_to_step(client, waiting, _STEPS)
                    answered = len(waiting) - len(failed)
                    loss.answered_at += [time.perf_counter() - began] * answered
                    progress.update(bar, advance=answered)
                    waiting = failed
                    if waiting:
                        await asyncio.sleep(_AGAIN_S)

        await asyncio.gather(*map(bring_back, range(_CLIENTS)))
        loss.cpu_s = sum(map(cpu_of_tree, left)) - cpu
        for probing_one in probing:
            probing_one.cancel()
        for result in await asyncio.gather(*probing, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        return loss


async def _played(client: Connection, count: int, progress: Progress) -> list[str]:
    """Make environments of which each has taken a few steps."""
    env_ids: list[str] = []
    bar = progress.add_task("made and stepped", total=count)
    while len(env_ids) < count:
        made = await initialize(client, "frozen_lake", LAKE, min(10_000, count - len(env_ids)))
        for seq in range(_STEPS):
            failed = await _try_to_step(client, made, seq)
            if failed:
                raise RuntimeError(f"{len(failed)} environments took no step before the loss")
        env_ids += made
        progress.update(bar, advance=len(made))
    return env_ids


async def _try_to_step(client: Connection, env_ids: Sequence[str], seq: int) -> list[str]:
    """Ask for a step of each; gives those that have to be asked again."""
    action = tool_call("move_left" if seq % 2 else "move_right")
    body = {"env_ids": env_ids, "actions": [action] * len(env_ids), "seqs": [seq] * len(env_ids)}
    answer = await client.send(post("/api/batch/step", orjson.dumps(body)))
    document = orjson.loads(answer.partition(b"\r\n\r\n")[2])
    if "errors" not in document:
        _require_retryable(document)
        return list(env_ids)
    for error in document["errors"]:
        _require_retryable(error)
    return [env_ids[error["index"]] for error in document["errors"]]


def _require_retryable(error: dict[str, object]) -> None:
    if not error["retryable"]:
        raise RuntimeError(f"an environment was lost: {error}")


async def _probe(port: int, env_id: str, loss: Loss) -> None:
    """Step an environment of the node that lives on, over and over, until cancelled."""
    client = await connect(port)
    bodies = [orjson.dumps({"action": tool_call(name)}) for name in ("move_left", "move_right")]
    requests = [post(f"/api/environment/{env_id}/step", body) for body in bodies]
    while True:
        for request in requests:
            began = time.perf_counter()
            answer = await client.send(request)
            loss.meanwhile.append(time.perf_counter() - began)
            if b" 200 " not in answer[:16]:
                raise RuntimeError(answer[-500:].decode())
            await asyncio.sleep(_PROBE_PAUSE_S)


# --- by their number ---------------------------------------------------------------------------------------


async def cost_of_recovery(count: int) -> float:
    """Bring ``count`` environments of one host back on another one, from memory; returns the seconds of CPU."""
    store = MemoryStore()
    log = MemoryEventLog(store)
    record = WorkerRecord(uuid.uuid4().hex, "bench:0", "bench", "bench", "127.0.0.1:0", 0)
    await store.heartbeat(record, 3600.0)
    tokens = await store.claim(record.incarnation, range(NUM_SLOTS))
    table = SlotTable(record.address)
    table.assign([None] * NUM_SLOTS, tokens, generation=await store.generation(), tokens=tokens)

    kept = PersistenceOptions(log, table, (LogShard(log, table),))
    first = Host(default_registry(), HostLimits(), kept=kept)
    if first.recorder is None:
        raise RuntimeError("the host keeps nothing")
    journal = asyncio.create_task(first.recorder.journal.run())
    for start in range(0, count, 1024):
        await asyncio.gather(*(_play(first, seed) for seed in range(start, min(count, start + 1024))))
    journal.cancel()
    del first, journal
    gc.collect()

    second = Host(default_registry(), HostLimits(), kept=kept)
    recovery = second.recovery
    if recovery is None:
        raise RuntimeError("the host keeps nothing")
    began = time.process_time()
    await recovery.recover_all()
    cost = time.process_time() - began
    if recovery.recovered != count:
        raise RuntimeError(f"{recovery.recovered} of {count} environments came back")
    return cost


async def _play(host: Host, seed: int) -> None:
    env_id, _ = await await_maybe(host.create(CreateRequest("frozen_lake", seed, env_kwargs=LAKE)))
    for seq in range(_STEPS):
        await await_maybe(host.step(env_id, tool_call("move_left" if seq % 2 else "move_right"), seq))


# --- tables ------------------------------------------------------------------------------------------------


def _print_costs(costs: dict[int, float], console: Console) -> None:
    table = Table(title="Bringing back, without a store", header_style="bold")
    for column in ("environments", "CPU, s", "µs for one"):
        table.add_column(column, justify="right")
    for number, cost_s in costs.items():
        table.add_row(f"{number:,}", f"{cost_s:.2f}", f"{cost_s / number * 1e6:.1f}")
    console.print(table)
    console.print(f"µs for one, among the most against among the fewest: at most {GROWTH:g} times")


def _print_loss(loss: Loss, count: int, console: Console) -> None:
    table = Table(title=f"One of two nodes killed, of {count:,} environments", header_style="bold")
    for column, justify in (("what", "left"), ("measured", "right"), ("allowed", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    p99_s = statistics.quantiles(loss.calm, n=100)[-1]
    for row in (
        ("environments of the lost node", f"{loss.lost:,}", ""),
        ("the first answers, s", f"{min(loss.answered_at, default=float('inf')):.1f}", ""),
        ("all have answered, s", f"{loss.all_s:.1f}", f"{RETURN_S:g}"),
        ("CPU of Redis and the other node meanwhile, s", f"{loss.cpu_s:.1f}", ""),
        ("p99 of calls on other environments before, s", f"{p99_s:.3f}", ""),
        ("p99 of calls on other environments meanwhile, s", f"{loss.others_p99_s:.3f}", f"{OTHERS_P99_S:g}"),
        ("the longest of them, s", f"{max(loss.meanwhile):.3f}", ""),
    ):
        table.add_row(*row)
    console.print(table)
