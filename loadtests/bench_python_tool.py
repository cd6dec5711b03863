"""What a call of the Python tool takes, and what is left of many: ``python -m loadtests.bench_python_tool --episodes 1000``.

Calls one after the other, beside a bare start of Python; then one step of each of many episodes in one batch, with a look at
how many sandboxes run at a time, and at what is left.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from typing import Any

from rich.console import Console

from loadtests.bench_mcp import Held
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.envs.python_tool.sandbox import MAX_SANDBOXES, SandboxLimits, sandboxes_here
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.turns import Caller, current_caller

_LIMITS = SandboxLimits(time_s=60.0, memory_bytes=512 << 20, max_output_bytes=1000)
_LOOK_S = 0.05


async def bench_starts(calls: int, console: Console) -> None:
    """Print what a call takes: one that prints a number, and one that imports NumPy."""
    sandboxes = sandboxes_here()
    await sandboxes.require()
    bare = [await _seconds_of(_bare_start()) for _ in range(calls)]
    plain = [await _seconds_of(sandboxes.run("1 + 1", _LIMITS)) for _ in range(calls)]
    numpy = [await _seconds_of(sandboxes.run("import numpy", _LIMITS)) for _ in range(max(1, calls // 5))]
    for name, seconds in (("Python alone", bare), ("a call", plain), ("a call that imports NumPy", numpy)):
        console.print(
            f"{name}: median {statistics.median(seconds) * 1000:.0f} ms, longest {max(seconds) * 1000:.0f} ms"
        )


async def bench_episodes(episodes: int, console: Console) -> bool:
    """Step many episodes in one batch; return whether all were answered and nothing is left."""
    before = Held.now()
    host = Host(default_registry(), HostLimits())
    # As a batch is: its calls wait for each other for as long as it takes.
    current_caller.set(Caller())
    request = CreateRequest("python_tool", 1, {"task_prompt": "Add."})
    env_ids = [(await await_maybe(host.create(request)))[0] for _ in range(episodes)]
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            # Besides the launcher, each sandbox is two of bubblewrap and Python.
            most = max(most, (Held.now().processes - before.processes - 1 + 2) // 3)
            await asyncio.sleep(_LOOK_S)

    looking = asyncio.create_task(look())
    begun = time.perf_counter()
    answers = await asyncio.gather(
        *(await_maybe(host.step(env_id, _action(number), 0)) for number, env_id in enumerate(env_ids))
    )
    took_s = time.perf_counter() - begun
    looking.cancel()
    right = sum(f'"{number * 2}"'.encode() in answer.observation for number, answer in enumerate(answers))
    await host.stop()
    await sandboxes_here().aclose()
    await asyncio.gather(looking, return_exceptions=True)
    leaked = Held.now().leaked(before)
    console.print(
        f"{episodes} episodes in one batch: {right} answered, {took_s:.1f} s, {took_s / episodes * 1000:.0f} ms each;"
        f" {most} sandboxes at a time of {MAX_SANDBOXES} allowed; {'something' if leaked else 'nothing'} left"
    )
    return right == episodes and not leaked


def _action(number: int) -> dict[str, Any]:
    call = {"name": "python", "arguments": f'{{"code": "{number} * 2"}}'}
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": call}]}


async def _bare_start() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-s", "-S", "-c", "pass")
    await process.wait()


async def _seconds_of(call: Any) -> float:
    begun = time.perf_counter()
    await call
    return time.perf_counter() - begun


async def main() -> bool:
    """Run both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=50, help="calls one after the other (default: 50)")
    parser.add_argument("--episodes", type=int, default=1000, help="episodes at a time (default: 1000)")
    options = parser.parse_args()
    console = Console(soft_wrap=True)
    await bench_starts(options.calls, console)
    return await bench_episodes(options.episodes, console)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
