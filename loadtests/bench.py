"""All figures of the single-node server: ``make bench``, or ``python -m loadtests.bench steps memory``."""

from __future__ import annotations

import argparse
import asyncio

from loadtests import bench_sokoban
from loadtests.bench_http import bench_large_calls, bench_steps
from loadtests.bench_memory import bench_memory, show_a_million

_PARTS = ("steps", "large", "memory", "levels")


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, "million"], help="default: all but the million")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the step measurement (default: 9)")
    parser.add_argument("--steps", type=int, default=8000, help="single steps per round (default: 8000)")
    parser.add_argument("--batch-size", type=int, default=10_000, help="steps per batch (default: 10000)")
    parser.add_argument("--environments", type=int, default=20_000, help="for memory (default: 20000)")
    parser.add_argument("--levels", type=int, default=300, help="levels per size (default: 300)")
    options = parser.parse_args()
    parts = options.parts or _PARTS
    if "steps" in parts:
        asyncio.run(bench_steps(options.rounds, options.steps, options.batch_size))
    if "large" in parts:
        asyncio.run(bench_large_calls())
    if "memory" in parts:
        asyncio.run(bench_memory(options.environments))
    if "levels" in parts:
        bench_sokoban.print_table(options.levels, "medium", 20_000)
    if "million" in parts:
        asyncio.run(show_a_million())


if __name__ == "__main__":
    main()
