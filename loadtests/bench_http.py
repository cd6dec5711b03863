"""What a step costs the server, as CPU time: single and in batches, against a bare echo of the same bodies.

All figures of one run are taken in turns (echo, server, echo, …), so that a machine that gets faster or slower
meanwhile does so for all of them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.processes import ServerProcess, serving, serving_app
from loadtests.raw_client import Connection, connect, post

_CONNECTIONS = 16
LAKE: dict[str, Any] = {"desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"], "max_steps": 1_000_000}
_ROOM: dict[str, Any] = {"dim_room": [6, 6], "num_boxes": 1, "max_steps": 1_000_000}


def tool_call(name: str) -> dict[str, Any]:
    """An action that calls a tool without arguments."""
    function = {"name": name, "arguments": "{}"}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }


async def bench_steps(rounds: int, steps_per_round: int, batch_size: int) -> dict[str, float]:
    """Measure everything and print the table.

    Returns:
        Median ratios to the echo by row.
    """
    costs: dict[str, list[float]] = {}
    with serving_app("loadtests.echo_app:app") as echo, serving() as server:
        echo_clients = [await connect(echo.port) for _ in range(_CONNECTIONS)]
        clients = [await connect(server.port) for _ in range(_CONNECTIONS)]
        lakes = await initialize(clients[0], "frozen_lake", LAKE, batch_size)
        rooms = await initialize(clients[0], "sokoban", _ROOM, batch_size)
        for number in track(range(rounds), description="rounds"):
            measured = {
                "echo, single": await single_step_s(echo, echo_clients, lakes, steps_per_round, number),
                "FrozenLake, single": await single_step_s(server, clients, lakes, steps_per_round, number),
                "Sokoban, single": await single_step_s(server, clients, rooms, steps_per_round, number, "move_left", "move_right"),
                f"FrozenLake, batch of {batch_size}": await _batch(server, clients[0], lakes, "move_right", "move_left"),
                f"Sokoban, batch of {batch_size}": await _batch(server, clients[0], rooms, "move_left", "move_right"),
            }  # fmt: skip
            for row, cost in measured.items():
                costs.setdefault(row, []).append(cost)
        for client in (*echo_clients, *clients):
            client.close()
    return _report(costs)


async def bench_large_calls() -> None:
    """One call with 100,000 steps, and how long 10,000 Sokoban environments take to begin."""
    with serving() as server:
        client = await connect(server.port)
        began = time.perf_counter()
        await initialize(client, "sokoban", {"dim_room": [6, 6], "num_boxes": 1}, 10_000)
        console = Console()
        console.print(
            f"batch/initialize of 10,000 Sokoban 6x6/1: {time.perf_counter() - began:.2f} s (bar: 5 s)"
        )
        lakes = await initialize(client, "frozen_lake", LAKE, 100_000)
        body = orjson.dumps({"env_ids": lakes, "actions": [tool_call("move_right")] * len(lakes)})
        began, cpu = time.perf_counter(), server.cpu_s()
        answer = await client.send(post("/api/batch/step", body))
        elapsed, cpu = time.perf_counter() - began, server.cpu_s() - cpu
        results = orjson.loads(answer.partition(b"\r\n\r\n")[2])
        if results["errors"] or len(results["rewards"]) != len(lakes):
            raise RuntimeError("not every step of the large batch succeeded")
        per_step = cpu / len(lakes) * 1e6
        console.print(f"batch/step of 100,000 FrozenLake: {elapsed:.2f} s, {per_step:.1f} µs of CPU per step")
        client.close()


async def initialize(client: Connection, env_name: str, env_kwargs: dict[str, Any], count: int) -> list[str]:
    """Make environments with the seeds from 0; gives their ids."""
    document = {"env_name": env_name, "env_kwargs": env_kwargs, "seeds": list(range(count))}
    answer = await client.call("/api/batch/initialize", document)
    if answer["errors"]:
        raise RuntimeError(str(answer["errors"][0]))
    env_ids: list[str] = answer["env_ids"]
    return env_ids


async def single_step_s(
    server: ServerProcess,
    clients: list[Connection],
    env_ids: list[str],
    count: int,
    number: int,
    there: str = "move_right",
    back: str = "move_left",
) -> float:
    """CPU seconds per single step, on as many environments as there are connections."""
    body = orjson.dumps({"action": tool_call(back if number % 2 else there)})

    async def play(client: Connection, env_id: str) -> None:
        request = post(f"/api/environment/{env_id}/step", body)
        for _ in range(count // len(clients)):
            answer = await client.send(request)
        if b" 200 " not in answer[:16]:
            raise RuntimeError(answer[-500:].decode())

    cpu = server.cpu_s()
    await asyncio.gather(*(play(client, env_id) for client, env_id in zip(clients, env_ids, strict=False)))
    return (server.cpu_s() - cpu) / (count // len(clients) * len(clients))


async def _batch(
    server: ServerProcess, client: Connection, env_ids: list[str], there: str, back: str
) -> float:
    """CPU seconds per step of a batch: there and back again."""
    bodies = [
        orjson.dumps({"env_ids": env_ids, "actions": [tool_call(name)] * len(env_ids)})
        for name in (there, back)
    ]
    cpu = server.cpu_s()
    for body in bodies * 2:
        answer = await client.send(post("/api/batch/step", body))
        if not answer.endswith(b'"errors":[]}'):
            raise RuntimeError(answer[-500:].decode())
    return (server.cpu_s() - cpu) / (4 * len(env_ids))


def _report(costs: dict[str, list[float]]) -> dict[str, float]:
    echo = costs["echo, single"]
    table = Table(title="CPU of the server per step", header_style="bold")
    for column in ("what", "µs, median", "× echo, median", "min", "max", "bar"):
        table.add_column(column, justify="left" if column == "what" else "right")
    ratios = {}
    for row, values in costs.items():
        pairs = [value / base for value, base in zip(values, echo, strict=True)]
        ratios[row] = statistics.median(pairs)
        bar = "" if row == "echo, single" else ("0.3" if "batch" in row else "1.6")
        table.add_row(
            row,
            f"{statistics.median(values) * 1e6:.1f}",
            f"{ratios[row]:.2f}",
            f"{min(pairs):.2f}",
            f"{max(pairs):.2f}",
            bar,
        )
    Console().print(table)
    return ratios
