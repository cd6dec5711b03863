"""What the web page costs: lists beside many environments, pages in a browser, ten open ones of the cluster."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench_http import LAKE, initialize, tool_call
from loadtests.processes import ServerProcess, serving
from loadtests.raw_client import Connection, connect
from loadtests.web_pages import show_usable

_SHORT: dict[str, Any] = {"desc": ["SG"], "is_slippery": False}
"""An episode of one step."""
_BATCH = 10_000
_KEPT = 100_000
_LIVE = 10_000
_NUM_CALLS = 20
_NUM_PAGES = 10
_WATCHED_S = 20.0
_QUIET_S = 3.0
_LISTS = {
    "episodes, the newest": "/api/episodes?limit=100",
    "… of a run": "/api/episodes?limit=100&run=run-3",
    "… successes of an environment": "/api/episodes?limit=100&env=frozen_lake&success=true",
    "… by reward": "/api/episodes?limit=100&min_reward=0.5",
    "… by text": "/api/episodes?limit=100&text=move_right",
    "… by text that none holds": "/api/episodes?limit=100&text=nothing-of-the-kind",
    "runs": "/api/runs",
    "environments by a word": "/api/environments?search=chess",
    "cluster": "/api/cluster",
}


async def bench_web() -> bool:
    """Measure all of it and print the tables; gives whether each bar is kept."""
    console = Console()
    with serving("--keep-trajectories", "memory", "--keep-trajectories-bytes", str(4 << 30)) as server:
        client = await connect(server.port)
        for number in track(range(_KEPT // _BATCH), description="episodes that are kept", console=console):
            await _play_short(client, f"run-{number}")
        at_once = await _first_list_s(client)
        await _play_short(client, "run-later")
        await initialize(client, "frozen_lake", LAKE, _LIVE)
        await asyncio.sleep(_QUIET_S)
        later = await _first_list_s(client)
        console.print(
            f"The first list: {at_once:.2f} s right after {_KEPT:,} episodes that nobody has looked for, {later * 1e3:.0f} ms after "
            f"{_BATCH:,} more and {_QUIET_S:g} quiet seconds (bar: 300 ms)"
        )
        are_quick = await _show_lists(client, console)
        are_soon = await _show_usable(client, server, console)
        is_light = await _show_pages(server, console)
        client.close()
    return later <= 0.3 and are_quick and are_soon and is_light


async def _first_list_s(client: Connection) -> float:
    began = time.perf_counter()
    await client.send(b"GET /api/episodes?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return time.perf_counter() - began


async def _play_short(client: Connection, run_id: str) -> None:
    document = {
        "env_name": "frozen_lake",
        "env_kwargs": _SHORT,
        "seeds": list(range(_BATCH)),
        "run_id": run_id,
    }
    env_ids = (await client.call("/api/batch/initialize", document))["env_ids"]
    actions = [tool_call("move_right")] * len(env_ids)
    answer = await client.call("/api/batch/step", {"env_ids": env_ids, "actions": actions})
    if answer["errors"] or not all(answer["terminations"]):
        raise RuntimeError("not every episode came to its end")
    await client.call("/api/batch/close", {"env_ids": env_ids})


async def _show_lists(client: Connection, console: Console) -> bool:
    table = Table(title=f"Lists with {_LIVE:,} live environments and {_KEPT:,} kept episodes, ms")
    for column in ("list", "median", "most", "bar"):
        table.add_column(column, justify="left" if column == "list" else "right")
    are_quick = True
    for name, path in _LISTS.items():
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        times = []
        for _ in range(_NUM_CALLS):
            began = time.perf_counter()
            answer = await client.send(request)
            times.append((time.perf_counter() - began) * 1e3)
            if b" 200 " not in answer[:16]:
                raise RuntimeError(answer[-500:].decode())
        table.add_row(name, f"{statistics.median(times):.1f}", f"{max(times):.1f}", "300")
        are_quick &= statistics.median(times) <= 300
    console.print(table)
    return are_quick


async def _show_usable(client: Connection, server: ServerProcess, console: Console) -> bool:
    answer = await client.send(b"GET /api/episodes?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    (row,) = orjson.loads(answer.partition(b"\r\n\r\n")[2])["episodes"]
    return await show_usable(f"http://127.0.0.1:{server.port}/", row["id"], console)


async def _show_pages(server: ServerProcess, console: Console) -> bool:
    """Compare the server's load with nobody watching the cluster and with ten who do."""
    idle = await _load(server)
    request = b"GET /api/cluster/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    streams = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(_NUM_PAGES)]
    readers = [asyncio.create_task(_read_all(reader)) for reader, _ in streams]
    for _, writer in streams:
        writer.write(request)
    watched = await _load(server)
    num_bytes = [await _ended(task, writer) for task, (_, writer) in zip(readers, streams, strict=True)]
    console.print(
        f"CPU with {_LIVE:,} live environments: {idle:.2%} of a core idle, {watched:.2%} with {_NUM_PAGES} open pages of the "
        f"cluster, {statistics.mean(num_bytes) / _WATCHED_S / 1e3:.1f} KB/s for each (bar: 2 % more)"
    )
    return watched - idle <= 0.02 and min(num_bytes) > 0


async def _load(server: ServerProcess) -> float:
    before = server.cpu_s()
    await asyncio.sleep(_WATCHED_S)
    return (server.cpu_s() - before) / _WATCHED_S


async def _read_all(reader: asyncio.StreamReader) -> int:
    num_bytes = 0
    while chunk := await reader.read(1 << 16):
        num_bytes += len(chunk)
    return num_bytes


async def _ended(task: asyncio.Task[int], writer: asyncio.StreamWriter) -> int:
    writer.write_eof()
    writer.transport.abort()
    return await task
