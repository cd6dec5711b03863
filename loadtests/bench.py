"""All figures: ``make bench``, or ``python -m loadtests.bench steps memory``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from loadtests import bench_ring, bench_sokoban
from loadtests.bench_cluster import bench_cluster
from loadtests.bench_durable import bench_durable
from loadtests.bench_http import bench_large_calls, bench_steps
from loadtests.bench_keeping import bench_keeping
from loadtests.bench_many import bench_many
from loadtests.bench_map import bench_map
from loadtests.bench_memory import bench_memory, show_a_million
from loadtests.bench_peers import bench_peers, require_peers
from loadtests.bench_placement import bench_placement
from loadtests.bench_recovery import bench_recovery
from loadtests.bench_shards import bench_shards
from loadtests.bench_web import bench_web
from verl_agent_env.types import NUM_SLOTS

_PARTS = ("steps", "durable", "large", "memory", "levels")
_MORE = (
    "million",
    "cluster",
    "many",
    "recovery",
    "ring",
    "map",
    "placement",
    "peers",
    "web",
    "keeping",
    "shards",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join((*_PARTS, *_MORE))}; default: the first five"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the step measurement (default: 9)")
    parser.add_argument("--steps", type=int, default=8000, help="single steps per round (default: 8000)")
    parser.add_argument("--batch-size", type=int, default=10_000, help="steps per batch (default: 10000)")
    parser.add_argument("--environments", type=int, default=20_000, help="for memory (default: 20000)")
    parser.add_argument("--live", type=int, default=100_000, help="for recovery and many (default: 100000)")
    parser.add_argument("--levels", type=int, default=300, help="levels per size (default: 300)")
    parser.add_argument("--workers", type=int, default=8, help="for map (default: 8)")
    parser.add_argument("--slots", type=int, default=NUM_SLOTS, help=f"for map (default: {NUM_SLOTS})")
    options = parser.parse_args(arguments)
    # Not as choices: Python 3.11 would refuse to be given none.
    unknown = set(options.parts) - {*_PARTS, *_MORE}
    if unknown:
        parser.error(f"there is no part '{min(unknown)}'")
    # So that whatever was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = options.parts or _PARTS
    if "steps" in parts:
        asyncio.run(bench_steps(options.rounds, options.steps, options.batch_size))
    if "durable" in parts:
        asyncio.run(bench_durable(options.rounds, options.steps))
    if "large" in parts:
        asyncio.run(bench_large_calls())
    if "memory" in parts:
        asyncio.run(bench_memory(options.environments))
    if "levels" in parts:
        bench_sokoban.print_table(options.levels, "medium", 20_000)
    if "cluster" in parts:
        asyncio.run(bench_cluster(options.rounds, options.batch_size, options.steps))
    is_kept = asyncio.run(bench_recovery(options.live)) if "recovery" in parts else True
    if "many" in parts:
        is_kept &= asyncio.run(bench_many(options.live, options.batch_size, options.rounds))
    if "peers" in parts:
        require_peers()
        is_kept &= asyncio.run(bench_peers(options.rounds, options.steps // 4))
    if "web" in parts:
        is_kept &= asyncio.run(bench_web())
    if "keeping" in parts:
        is_kept &= asyncio.run(bench_keeping(options.rounds))
    if "shards" in parts:
        is_kept &= asyncio.run(bench_shards(options.rounds, options.batch_size, options.steps))
    if "map" in parts:
        bench_map(options.workers, options.slots)
    if "placement" in parts:
        asyncio.run(bench_placement(options.rounds))
    if "ring" in parts:
        Console().print(bench_ring.ring_table(50))
    if "million" in parts:
        asyncio.run(show_a_million())
    if not is_kept:
        sys.exit(1)


if __name__ == "__main__":
    main()
