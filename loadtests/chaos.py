"""Break a cluster under load in every way that it promises to survive, and print what its clients noticed.

    python -m loadtests.chaos --episodes 10000

Redis, two nodes of two workers and nginx run as processes of this machine; as root, each in a network namespace of its
own, so that a node can be cut off. After each fault every environment is
stepped twice more. In the end the answers of a sample are compared with those of a single process, one by one, and the
server's count of steps with the clients'.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests import bad_env
from loadtests.chaos_load import Ledger, Load, differs_from_reference
from loadtests.namespaces import Network, can_make_namespaces
from verl_agent_env.cli.local_cluster import LocalCluster, Machine, Node
from verl_agent_env.cluster.nginx_config import KERNEL_SETTINGS

Strike = Callable[[LocalCluster, Load], Awaitable[None]]

_SETTLE_S = 30.0
_NGINX_NOTICES_S = 2.5
# The first one is the clients'.
_MACHINES = ("clients", "redis", "nginx", "node-1", "node-2", "node-3", "node-4")
_BETWEEN_KILLS_S = 3.0
_MISBEHAVE_S = 35.0
_CALM_S = 20.0


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what clients may notice of it."""

    name: str
    strike: Strike
    max_stall_s: float
    may_refuse: bool = False
    """Whether tries may fail with a typed error that says to try again."""
    max_added_p99_s: float | None = None
    """How much longer the slowest hundredth of steps may take than without any fault."""
    max_p99_ratio: float | None = None
    """How many times as long it may take as just before and after."""


@dataclass(frozen=True)
class Finding:
    """What one fault came to."""

    fault: Fault
    ledger: Ledger
    calm_p99_s: float
    """The slowest hundredth of steps without any fault, in the same run."""

    @property
    def p99_ratio(self) -> float:
        """How many times as long the slowest hundredth of steps took."""
        return self.ledger.p99_s() / self.calm_p99_s

    @property
    def faults(self) -> list[str]:
        """What was promised and not kept."""
        ledger, found = self.ledger, []
        if ledger.unretryable:
            found.append("lost: " + ", ".join(f"{n} {code}" for code, n in ledger.unretryable.items()))
        if ledger.longest_s > self.fault.max_stall_s:
            found.append(f"stalled {ledger.longest_s:.1f} s")
        added_s = ledger.p99_s() - self.calm_p99_s
        if self.fault.max_p99_ratio is not None and self.p99_ratio > self.fault.max_p99_ratio:
            found.append(f"p99 {self.p99_ratio:.2f} times as long")
        if self.fault.max_added_p99_s is not None and added_s > self.fault.max_added_p99_s:
            found.append(f"p99 {added_s:.2f} s longer")
        if ledger.refused and not self.fault.may_refuse:
            found.append("refused: " + ", ".join(f"{n} {code}" for code, n in ledger.refused.items()))
        return found


async def nothing(*_: object) -> None:
    """No fault, for comparison."""
    await asyncio.sleep(10)


async def kill_worker(cluster: LocalCluster, _: Load) -> None:
    """``kill -9`` of one worker."""
    os.kill(await _worker_pid(cluster), signal.SIGKILL)


async def kill_every_worker(cluster: LocalCluster, _: Load) -> None:
    """``kill -9`` of each worker in turn, so of whoever coordinates a batch, too."""
    for address in cluster.addresses:
        os.kill(await _worker_pid(cluster, address), signal.SIGKILL)
        await asyncio.sleep(_BETWEEN_KILLS_S)
        await _settled(cluster)


async def stop_worker(cluster: LocalCluster, _: Load) -> None:
    """A worker that stands still for twenty seconds, and wakes up."""
    pid = await _worker_pid(cluster)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(20)
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        # Its supervisor has replaced it, as it should.
        return


async def kill_node(cluster: LocalCluster, _: Load) -> None:
    """The loss of a whole node, which comes back ten seconds later."""
    node = cluster.nodes[-1]
    await asyncio.to_thread(node.kill)
    await asyncio.sleep(10)
    await _start(node, cluster)


async def restart_redis(cluster: LocalCluster, _: Load) -> None:
    """Redis killed and started again, with its file of appended commands."""
    await asyncio.to_thread(cluster.redis.kill)
    cluster.redis.start()


async def redis_away(cluster: LocalCluster, _: Load) -> None:
    """Redis away for thirty seconds."""
    await asyncio.to_thread(cluster.redis.kill)
    await asyncio.sleep(30)
    cluster.redis.start()


async def flush_redis(cluster: LocalCluster, _: Load) -> None:
    """All data of Redis gone, with the owners alive."""
    import redis.asyncio

    client = redis.asyncio.from_url(cluster.redis_url)
    await client.flushall()
    await client.aclose()


async def rolling_restart(cluster: LocalCluster, _: Load) -> None:
    """Every node stopped and started, one after the other; nginx has noticed that one is back before the next goes."""
    for node in list(cluster.nodes):
        await asyncio.to_thread(node.stop)
        await _start(node, cluster)
        await asyncio.sleep(_NGINX_NOTICES_S)


async def grow_and_shrink(cluster: LocalCluster, _: Load) -> None:
    """From two nodes to four and back; nginx knows all four by plan."""
    for node in cluster.planned:
        await _start(node, cluster)
    for node in reversed(cluster.planned):
        await asyncio.to_thread(node.stop)
        await _settled(cluster)
        await asyncio.sleep(_NGINX_NOTICES_S)


async def misbehave(_: LocalCluster, load: Load) -> None:
    """Environments that block for thirty seconds, raise, and leak, beside the others."""
    await load.misbehave(_MISBEHAVE_S)


async def reload_nginx(cluster: LocalCluster, _: Load) -> None:
    """nginx told twenty times to read its configuration anew."""
    for _reload in range(20):
        cluster.nginx.signal(signal.SIGHUP)
        await asyncio.sleep(0.2)


def cut_off(network: Network) -> Strike:
    """The last node of two taken off the net for twenty seconds; its processes go on and know nothing."""

    async def strike(cluster: LocalCluster, _: Load) -> None:
        network.cut(cluster.nodes[-1].name)
        await asyncio.sleep(20)
        network.mend(cluster.nodes[-1].name)
        await _settled(cluster)

    return strike


LEASE_S = 5.0
FAULTS = (
    Fault("nothing", nothing, 2.0),
    Fault("kill -9 of a worker", kill_worker, 2.0, may_refuse=True),
    Fault("kill -9 of every worker in turn", kill_every_worker, 2.0, may_refuse=True),
    Fault("SIGSTOP of a worker for 20 s", stop_worker, LEASE_S + 2.0, may_refuse=True),
    Fault("whole node killed", kill_node, LEASE_S + 2.0, may_refuse=True),
    Fault("rolling restart of all nodes", rolling_restart, LEASE_S, max_added_p99_s=0.25),
    Fault("2 to 4 to 2 nodes", grow_and_shrink, LEASE_S, max_added_p99_s=0.25),
    Fault("nginx reloaded 20 times", reload_nginx, 2.0, may_refuse=True),
    Fault("Redis killed and restarted", restart_redis, LEASE_S + 2.0, may_refuse=True),
    Fault("Redis emptied", flush_redis, LEASE_S + 2.0, may_refuse=True),
    Fault("environments that block, raise, leak", misbehave, 2.0, max_p99_ratio=1.1),
    Fault("Redis away for 30 s", redis_away, 30.0 + LEASE_S + 2.0, may_refuse=True),
)


async def run(
    faults: list[Fault],
    options: argparse.Namespace,
    folder: Path,
    console: Console,
    machines: Mapping[str, Machine],
) -> int:
    """Strike with every fault; gives how many promises were broken."""
    os.environ["PYTHONPATH"] = bad_env.write_package(folder / "bad")
    cluster = LocalCluster(folder, nodes=2, workers=2, planned_nodes=2, machines=machines)
    load = Load("", options.episodes, think_s=options.think_s, sample=options.sample)
    with console.status("starting") as status:
        try:
            await asyncio.to_thread(cluster.start)
            load.url = cluster.url
            await load.start()
            await load.rounds(1)
            findings: list[Finding] = []
            for nth, fault in enumerate(_in_turn(faults, options.soak_min)):
                status.update(f"{nth}: {fault.name}")
                await _settled(cluster)
                load.renew()
                calm: Ledger | None = findings[0].ledger if findings else None
                if fault.max_p99_ratio is not None:
                    calm = await _calm(load)
                await fault.strike(cluster, load)
                await load.rounds(2)
                ledger = load.renew()
                if fault.max_p99_ratio is not None and calm is not None:
                    # The machine may be busier or less busy now than before.
                    calm = calm.plus(await _calm(load))
                findings.append(Finding(fault, ledger, (calm or ledger).p99_s()))
                if findings[-1].faults:
                    console.print(f"[red]{fault.name}: {'; '.join(findings[-1].faults)}[/red]")
            status.update("comparing")
            await load.stop()
            wrong = await compare(load)
            closed = await load.close()
        finally:
            await asyncio.to_thread(cluster.stop)
    _print(findings, console)
    console.print(
        f"{len(load.episodes):,} environments, {sum(e.steps for e in load.episodes):,} steps; {closed:,} closed in the "
        f"end. Of a sample of {min(options.sample, len(load.episodes))}: {wrong} differ from the reference or in their count."
    )
    return sum(len(finding.faults) for finding in findings) + wrong


async def compare(load: Load) -> int:
    """How many environments of a sample gave another answer than a single process, or took another number of steps."""
    chosen = [episode for episode in load.episodes if episode.is_sampled]
    living = [episode for episode in chosen if not episode.lost]
    counts = await load.server_seqs(living)
    miscounted = sum(count != episode.seq for count, episode in zip(counts, living, strict=True))
    return miscounted + sum(differs_from_reference(episode) for episode in chosen)


async def _calm(load: Load) -> Ledger:
    """What clients see while nothing goes wrong."""
    await asyncio.sleep(_CALM_S)
    return load.renew()


def _in_turn(faults: list[Fault], soak_min: float) -> Iterator[Fault]:
    """Each fault once; or, after the first, any of them until the time is over."""
    if not soak_min:
        yield from faults
        return
    end = time.monotonic() + 60 * soak_min
    yield faults[0]
    while time.monotonic() < end:
        yield random.choice(faults[1:])


def _by_fault(findings: list[Finding]) -> list[tuple[Finding, int]]:
    """One finding for each fault, and how often it struck."""
    found: dict[str, tuple[Finding, int]] = {}
    for finding in findings:
        name = finding.fault.name
        if name in found:
            whole, times = found[name]
            calm_p99_s = max(whole.calm_p99_s, finding.calm_p99_s)
            found[name] = Finding(finding.fault, whole.ledger.plus(finding.ledger), calm_p99_s), times + 1
        else:
            found[name] = finding, 1
    return list(found.values())


def _print(findings: list[Finding], console: Console) -> None:
    table = Table(title="What clients noticed", header_style="bold")
    for column in (
        "fault",
        "times",
        "steps",
        "tries refused",
        "lost",
        "p99, s",
        "× calm",
        "longest, s",
        "allowed, s",
        "",
    ):
        table.add_column(column, justify="left" if column in ("fault", "") else "right")
    for finding, times in _by_fault(findings):
        ledger = finding.ledger
        table.add_row(
            finding.fault.name,
            str(times),
            f"{ledger.steps:,}",
            ", ".join(f"{count} {code}" for code, count in ledger.refused.items()) or "0",
            str(ledger.unretryable.total()),
            f"{ledger.p99_s():.2f}",
            f"{finding.p99_ratio:.2f}",
            f"{ledger.longest_s:.2f}",
            f"{finding.fault.max_stall_s:g}",
            "[red]no[/red]" if any(f.faults for f in findings if f.fault is finding.fault) else "kept",
        )
    console.print(table)


async def _worker_pid(cluster: LocalCluster, address: str = "") -> int:
    """Process id of the worker at ``address``; of any worker of the last node if not given."""
    address = address or cluster.nodes[-1].addresses[0]
    described = await asyncio.to_thread(cluster.describe)
    workers = [worker for node in described["nodes"] for worker in node["workers"]]
    return next(int(worker["pid"]) for worker in workers if worker["address"] == address)


async def _start(node: Node, cluster: LocalCluster) -> None:
    node.start()
    await _settled(cluster)


async def _settled(cluster: LocalCluster) -> None:
    """Wait until every slot is where it belongs, at most half a minute."""
    async with asyncio.timeout(_SETTLE_S):
        while True:
            try:
                if await asyncio.to_thread(cluster.is_settled):
                    return
            except (OSError, ValueError):
                pass
            await asyncio.sleep(0.1)


def main() -> None:
    """Run the chosen faults; exit code 1 when a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=10_000, help="live environments (default: 10000)")
    parser.add_argument(
        "--think-s",
        type=float,
        default=0.5,
        help="pause of clients between calls, in the mean (default: 0.5)",
    )
    parser.add_argument("--sample", type=int, default=500, help="compared in the end (default: 500)")
    parser.add_argument(
        "--soak-min", type=float, default=0.0, help="minutes of faults at random, instead of each once"
    )
    parser.add_argument("--only", default="", help="faults whose names hold this text")
    options = parser.parse_args()
    # So that whatever was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, contextlib.ExitStack() as stack:
        faults, machines = list(FAULTS), dict[str, Machine]()
        if can_make_namespaces():
            network = stack.enter_context(contextlib.closing(Network(_MACHINES)))
            machines = {name: Machine(network.addresses[name], network.enter(name)) for name in _MACHINES}
            faults.append(Fault("node cut off for 20 s", cut_off(network), LEASE_S + 2.0, may_refuse=True))
            network.tune("nginx", KERNEL_SETTINGS)
            network.move_here(_MACHINES[0])
        else:
            console.print("Without root and iproute2 no node can be cut off.")
        chosen = [faults[0], *(fault for fault in faults[1:] if options.only in fault.name)]
        broken = asyncio.run(run(chosen, options, Path(folder), console, machines))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
