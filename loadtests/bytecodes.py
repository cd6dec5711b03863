"""How many bytecodes of Python the server executes for a step: ``python -m loadtests.bytecodes``.

Times differ from run to run by more than a change of a few percent; this count does not, whatever else the machine does. It says
nothing about time spent in C. Run it in two checkouts to compare them, with ``--functions 30`` to see where they differ.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import uvicorn
from rich.console import Console
from rich.table import Table
from uvicorn.server import ServerState

import verl_agent_env
from loadtests.bench_http import LAKE, tool_call
from loadtests.raw_client import post
from verl_agent_env.config import HostLimits, ServerSettings
from verl_agent_env.server import create_app
from verl_agent_env.server.http.fast_path import FastPathProtocol

_COUNTED = (
    # What makes the objects of data classes has no file.
    "<string>",
    *(f"{Path(module.__file__ or '').parent}/" for module in (verl_agent_env, uvicorn)),
)
_MEANWHILE = "/server/process/loop_watch.py"
"""What looks at the event loop whatever is done."""
Function = tuple[str, str]
"""File and qualified name."""


class _Client(asyncio.Transport):
    """The other end of a connection that is none: sends requests to the protocol, takes in its answers."""

    def __init__(self, make: Callable[[], FastPathProtocol]) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self._answer = bytearray()
        self._has_written = asyncio.Event()
        self._protocol = make()
        self._protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._answer += data
        self._has_written.set()

    def is_closing(self) -> bool:
        return False

    async def call(self, path: str, document: Any) -> Any:
        """Send a request and give the JSON of its answer."""
        self._answer.clear()
        self._protocol.data_received(post(path, orjson.dumps(document)))
        while (answer := _body_of(bytes(self._answer))) is None:
            self._has_written.clear()
            await self._has_written.wait()
        if not self._answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(answer.decode())
        return orjson.loads(answer)

    def leave(self) -> None:
        """Close the connection."""
        self._protocol.connection_lost(ConnectionResetError())


def _body_of(answer: bytes) -> bytes | None:
    """Return the body of an answer; None if it is not whole."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return None
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return body if len(body) >= int(length) else None


@asynccontextmanager
async def _serving(settings: ServerSettings) -> AsyncIterator[Callable[[], _Client]]:
    """Serve without sockets; gives what makes a connection."""
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        config = uvicorn.Config(
            app, access_log=False, server_header=False, date_header=False, log_config=None
        )
        config.load()
        yield lambda: _Client(lambda: FastPathProtocol(config, ServerState(), dict(state or {})))


async def _counted(work: Callable[[], Awaitable[object]]) -> Counter[Function]:
    """Count the bytecodes of the server's and of uvicorn's Python code while ``work`` is done."""
    counts: Counter[Function] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(_COUNTED) or code.co_filename.endswith(_MEANWHILE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            counts[(code.co_filename, code.co_qualname)] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        await work()
    finally:
        sys.settrace(before)
    return counts


async def count(num_envs: int = 64, *, keeps_episodes: bool = False) -> dict[str, Counter[Function]]:
    """Count the bytecodes of a single FrozenLake step of each environment, and of one batch of all.

    Args:
        num_envs: Environments.
        keeps_episodes: Whether the server keeps their episodes.

    Returns:
        Bytecodes of all steps by function, for ``single`` and for ``batch``.
    """
    settings = ServerSettings(
        host_limits=HostLimits(yield_after_s=3600.0),
        keep_trajectories="memory" if keeps_episodes else "",
    )
    async with _serving(settings) as connect:
        client = connect()
        document = {"env_name": "frozen_lake", "env_kwargs": LAKE, "seeds": list(range(num_envs))}
        env_ids = (await client.call("/api/batch/initialize", document))["env_ids"]

        async def single(name: str) -> None:
            for env_id in env_ids:
                await client.call(f"/api/environment/{env_id}/step", {"action": tool_call(name)})

        async def batch(name: str) -> None:
            document = {"env_ids": env_ids, "actions": [tool_call(name)] * num_envs}
            await client.call("/api/batch/step", document)

        counted = {}
        for what, step in (("single", single), ("batch", batch)):
            # What is made at first use is made.
            await step("move_right")
            await step("move_left")
            counted[what] = await _counted(lambda step=step: step("move_right"))  # type: ignore[misc]
            await step("move_left")
        client.leave()
    return counted


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=int, default=256, help="how many (default: 256)")
    parser.add_argument(
        "--functions", type=int, default=0, help="so many functions with the most (default: 0)"
    )
    options = parser.parse_args(arguments)
    console = Console()
    table = Table(title="Bytecodes per FrozenLake step", header_style="bold")
    for column in ("step", "episodes", "bytecodes"):
        table.add_column(column, justify="right" if column == "bytecodes" else "left")
    functions = []
    for keeps_episodes in (False, True):
        counted = asyncio.run(count(options.environments, keeps_episodes=keeps_episodes))
        for what, counts in counted.items():
            kept = "kept" if keeps_episodes else "not kept"
            table.add_row(what, kept, f"{counts.total() / options.environments:.0f}")
            for (file, name), number in counts.most_common(options.functions):
                per_step = number / options.environments
                functions.append(f"{what}, {kept}: {per_step:7.1f} {Path(file).stem}.{name}")
    console.print(table)
    for line in functions:
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
