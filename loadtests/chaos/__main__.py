"""Strike a cluster under load with one fault after the other, and print what its clients noticed.

    python -m loadtests.chaos --episodes 10000

Redis, two nodes of two workers and nginx run as processes of this machine; as root, each in a network namespace of its
own, so that a node can be cut off. After each fault every environment is stepped twice more. In the end the answers of a
sample are compared with those of a single process, one by one, and the server's count of steps with the clients'; where
a fault has environments of its own, theirs are, too.
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
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from loadtests import bad_env
from loadtests.chaos.fault import Fault
from loadtests.chaos.faults import faults_of
from loadtests.chaos.ledger import Ledger
from loadtests.chaos.load import Load
from loadtests.chaos.steering import settled
from loadtests.chaos.table import Finding, print_table
from loadtests.namespaces import Network, can_make_namespaces
from verl_agent_env.cluster.local import LocalCluster, Machine
from verl_agent_env.cluster.nginx.config import KERNEL_SETTINGS

# The first one is the clients'.
_MACHINES = ("clients", "redis", "nginx", "node-1", "node-2", "node-3", "node-4")
_RELEASES = "releases"
_CALM_S = 20.0
_WIDTH = 170


async def run(
    faults: list[Fault],
    options: argparse.Namespace,
    folder: Path,
    console: Console,
    machines: Mapping[str, Machine],
) -> int:
    """Strike with every fault; gives how many promises were broken."""
    os.environ["PYTHONPATH"] = f"{folder / _RELEASES}:{bad_env.write_package(folder / 'bad')}"
    cluster = LocalCluster(folder, nodes=2, workers=2, planned_nodes=2, machines=machines)
    load = Load("", options.episodes, think_s=options.think_s, sample=options.sample)
    with console.status("starting") as status:
        try:
            await asyncio.to_thread(cluster.start)
            load.client.url = cluster.url
            await load.start()
            await load.rounds(1)
            findings: list[Finding] = []
            for nth, fault in enumerate(_in_turn(faults, options.soak_min)):
                status.update(f"{nth}: {fault.name}")
                await settled(cluster)
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
            wrong = await load.differing()
            closed = await load.close()
        finally:
            await load.end()
            await asyncio.to_thread(cluster.stop)
    print_table(findings, console)
    console.print(
        f"{len(load.episodes):,} environments, {sum(e.steps for e in load.episodes):,} steps; {closed:,} closed in the "
        f"end. Of a sample of {min(options.sample, len(load.episodes))}: {wrong} differ from the reference or in their count."
    )
    return sum(len(finding.faults) for finding in findings) + wrong


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
    parser.add_argument(
        "--slower",
        type=float,
        default=1.0,
        help="times as long as allowed that a wait may be, on a busy machine",
    )
    options = parser.parse_args()
    # So that whatever was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The table of a run that goes to a file is read later, somewhere wide enough.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, contextlib.ExitStack() as stack:
        network, machines = None, dict[str, Machine]()
        if can_make_namespaces():
            network = stack.enter_context(contextlib.closing(Network(_MACHINES)))
            machines = {name: Machine(network.addresses[name], network.enter(name)) for name in _MACHINES}
            network.tune("nginx", KERNEL_SETTINGS)
            network.move_here(_MACHINES[0])
        else:
            console.print("Without root and iproute2 no node can be cut off.")
        faults = faults_of(network, Path(folder) / _RELEASES)
        chosen = [faults[0], *(fault for fault in faults[1:] if options.only in fault.name)]
        chosen = [fault.allowing(options.slower) for fault in chosen]
        broken = asyncio.run(run(chosen, options, Path(folder), console, machines))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
