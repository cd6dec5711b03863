"""How much memory a live environment takes on a server."""

from __future__ import annotations

from typing import Any

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench_http import tool_call
from loadtests.processes import serving
from loadtests.raw_client import Connection, connect, post

_KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("frozen_lake", {"size": 8}, "move_left"),
    ("frozen_lake", {"size": 4}, "move_left"),
    ("sokoban", {"dim_room": [6, 6], "num_boxes": 1}, "move_left"),
    ("sokoban", {"dim_room": [10, 10], "num_boxes": 4}, "move_left"),
)


async def bench_memory(count: int) -> None:
    """Growth of a server's resident memory by environment, fresh and after five steps each."""
    table = Table(title=f"Memory per live environment, of {count:,}", header_style="bold")
    for column in ("environment", "fresh, bytes", "after 5 steps, bytes", "bar"):
        table.add_column(column, justify="left" if column == "environment" else "right")
    for env_name, env_kwargs, move in _KINDS:
        with serving() as server:
            client = await connect(server.port)
            # The first few bring in modules and caches, which are not the environments'.
            await make(client, env_name, env_kwargs, range(2000))
            before = server.rss_bytes()
            env_ids = await make(client, env_name, env_kwargs, range(10_000, 10_000 + count))
            fresh = (server.rss_bytes() - before) / count
            for seq in range(5):
                body = {"env_ids": env_ids, "actions": [tool_call(move)] * count, "seqs": [seq] * count}
                await client.send(post("/api/batch/step", orjson.dumps(body)))
            played = (server.rss_bytes() - before) / count
            client.close()
        table.add_row(f"{env_name} {env_kwargs}", f"{fresh:,.0f}", f"{played:,.0f}", "6,144")
    Console().print(table)


async def show_a_million() -> None:
    """A million live environments on one server, each stepped once."""
    total, size = 1_000_000, 20_000
    console = Console()
    with serving() as server:
        client = await connect(server.port)
        env_ids: list[str] = []
        for start in track(range(0, total, 2 * size), description="initialize"):
            env_ids += await make(client, "frozen_lake", {"size": 8}, range(start, start + size))
            env_ids += await make(
                client, "sokoban", {"dim_room": [6, 6], "num_boxes": 1}, range(start, start + size)
            )
        console.print(f"{len(env_ids):,} live environments, half FrozenLake 8x8, half Sokoban 6x6/1:")
        console.print(f"{server.rss_bytes() / 2**30:.2f} GiB of resident memory")
        cpu, failed = server.cpu_s(), 0
        for start in track(range(0, total, size), description="step each"):
            part = env_ids[start : start + size]
            answer = await client.call(
                "/api/batch/step", {"env_ids": part, "actions": [tool_call("move_left")] * len(part)}
            )
            failed += len(answer["errors"])
        cpu = (server.cpu_s() - cpu) / total * 1e6
        console.print(f"each stepped once: {failed} failed, {cpu:.1f} µs of CPU per step")
        console.print(f"{server.rss_bytes() / 2**30:.2f} GiB of resident memory after it")
        client.close()


async def make(client: Connection, env_name: str, env_kwargs: dict[str, Any], seeds: range) -> list[str]:
    """Make an environment for each seed."""
    document = {"env_name": env_name, "env_kwargs": env_kwargs, "seeds": list(seeds)}
    answer = await client.call("/api/batch/initialize", document)
    if answer["errors"]:
        raise RuntimeError(str(answer["errors"][0]))
    env_ids: list[str] = answer["env_ids"]
    return env_ids
