"""Time the Sokoban level generator and measure how hard its levels are, beside gym-sokoban's figures.

    python loadtests/bench_sokoban.py --levels 300

Times are the CPU time of this process, garbage collection included. Pushes are the fewest that solve a level,
found by the exact solver; with more than four boxes its lower bound stands in for levels beyond the node limit,
and the column "proved" says for how many levels the figure is exact.
"""

import argparse
import time
from statistics import fmean, median, quantiles

from verl_agent_env.envs.sokoban.generator import generate_level
from verl_agent_env.envs.sokoban.level import Level
from verl_agent_env.envs.sokoban.rules import advance
from verl_agent_env.envs.sokoban.solver import RoomSearchLimitError, lower_bound, solve

SIZES = (
    (6, 6, 1),
    (6, 6, 3),
    (7, 7, 2),
    (8, 8, 4),
    (10, 10, 3),
    (10, 10, 4),
    (13, 11, 4),
    (13, 13, 5),
    (20, 20, 8),
)
REFERENCE = {(6, 6, 1): (2.2, 2.05), (7, 7, 2): (19.0, 4.9), (10, 10, 4): (6100.0, 12.2)}
"""Milliseconds per level and mean fewest pushes of gym-sokoban's generator, measured on one core."""


def fewest_pushes(level: Level, node_limit: int) -> tuple[int, bool]:
    """Return the fewest pushes and True, or a lower bound and False."""
    if node_limit:
        try:
            solution = solve(level, node_limit)
        except RoomSearchLimitError:
            pass
        else:
            if solution is None:
                raise SystemExit(f"a generated level has no solution:\n{level.to_text()}")
            return solution.pushes, True
    return lower_bound(level) or 0, False


def bench_size(height: int, width: int, boxes: int, levels: int, difficulty: str, node_limit: int) -> str:
    generate_level(0, height, width, boxes, difficulty=difficulty)
    times_ms, made = [], []
    for seed in range(levels):
        began = time.process_time()
        made.append(generate_level(seed, height, width, boxes, difficulty=difficulty))
        times_ms.append((time.process_time() - began) * 1e3)
    began = time.process_time()
    results = [fewest_pushes(level, node_limit if boxes <= 5 else 0) for level in made]
    solve_ms = (time.process_time() - began) * 1e3 / levels
    pushes = [count for count, _ in results]
    proved = sum(exact for _, exact in results)
    reference = REFERENCE.get((height, width, boxes))
    beside = f"{reference[0]:9.1f} {reference[1]:7.2f}" if reference else f"{'-':>9} {'-':>7}"
    return (
        f"{f'{height}x{width}/{boxes}':>10} {fmean(times_ms):8.3f} {median(times_ms):8.3f} "
        f"{quantiles(times_ms, n=100)[98]:8.3f} {beside} {fmean(pushes):8.2f} {median(pushes):7.1f} "
        f"{proved:>5}/{levels:<5} {solve_ms:9.2f}"
    )


def step_ns(steps: int = 200_000) -> float:
    """Return the CPU nanoseconds of one step of the rules in a 10x10 room, the loop around it included."""
    level = generate_level(0, 10, 10, 4)
    boxes, player = level.boxes, level.player
    began = time.process_time()
    for i in range(steps):
        boxes, player = advance(level, boxes, player, 1 + (i * i >> 3) % 4)
    return (time.process_time() - began) / steps * 1e9


def print_table(levels: int, difficulty: str, node_limit: int) -> None:
    """Measure each size and print its row."""
    print(
        f"{'':>10} {'ms per level (CPU)':>26} {'gym-sokoban':>17} {'fewest pushes':>16} {'':>11} {'solver':>9}"
    )
    print(
        f"{'room':>10} {'mean':>8} {'p50':>8} {'p99':>8} {'ms':>9} {'pushes':>7} {'mean':>8} {'median':>7} "
        f"{'proved':>11} {'ms':>9}"
    )
    for height, width, boxes in SIZES:
        print(
            bench_size(height, width, boxes, levels, difficulty, node_limit),
            flush=True,
        )
    print(f"one step of the rules: {step_ns():.0f} ns")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--levels", type=int, default=300, help="levels per size (default: 300)")
    parser.add_argument("--difficulty", default="medium", choices=["easy", "medium", "hard"])
    parser.add_argument(
        "--node-limit", type=int, default=20_000, help="of the solver, per level (default: 20000)"
    )
    options = parser.parse_args()
    if options.levels < 2:
        parser.error("--levels must be at least 2")
    print_table(options.levels, options.difficulty, options.node_limit)


if __name__ == "__main__":
    main()
