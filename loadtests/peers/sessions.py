"""Clients that cost little, one for each wire: they open sessions and step all of them side by side."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
from websockets.asyncio.client import ClientConnection, connect

from loadtests.bench_http import tool_call
from loadtests.peers.lake import DIRECTIONS, LAKE
from loadtests.raw_client import Connection
from loadtests.raw_client import connect as connect_raw
from loadtests.raw_client import post


class Sessions(ABC):
    """Sessions of one server, each in an episode of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._taken = 0

    @property
    @abstractmethod
    def count(self) -> int:
        """How many are open."""

    @abstractmethod
    async def open(self, count: int) -> None:
        """Open so many more, and begin their episodes."""

    @abstractmethod
    async def close(self) -> None:
        """Close all of them."""

    async def step(self, rounds: int) -> list[float]:
        """Step each session so many times, all of them side by side; gives the seconds that each step took."""
        taken: list[list[float]] = await asyncio.gather(
            *(self._play(number, rounds) for number in range(self.count))
        )
        self._taken += rounds
        return [seconds for part in taken for seconds in part]

    async def _play(self, number: int, rounds: int) -> list[float]:
        taken = []
        for turn in range(self._taken, self._taken + rounds):
            began = time.perf_counter()
            await self._step_one(number, DIRECTIONS[turn % 2])
            taken.append(time.perf_counter() - began)
        return taken

    @abstractmethod
    async def _step_one(self, number: int, direction: str) -> None:
        """Take one step in one session."""


class OpenEnvSessions(Sessions):
    """OpenEnv's WebSocket; compression is offered, as its own client does."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(port)
        self._url = f"ws://127.0.0.1:{port}{path}"
        self._sockets: list[ClientConnection] = []

    @property
    def count(self) -> int:
        return len(self._sockets)

    async def open(self, count: int) -> None:
        for number in range(self.count, self.count + count):
            socket = await connect(self._url, proxy=None, ping_interval=None, open_timeout=60)
            await _asked(socket, {"type": "reset", "data": {"seed": number, **self._arguments()}})
            self._sockets.append(socket)

    async def close(self) -> None:
        await asyncio.gather(*(socket.close() for socket in self._sockets))

    def _arguments(self) -> dict[str, Any]:
        # The peer's server takes them too, and passes over them: its environment has them already.
        return {"env_kwargs": LAKE}

    async def _step_one(self, number: int, direction: str) -> None:
        data = {"text": f"<action>{direction}</action>"}
        await _asked(self._sockets[number], {"type": "step", "data": data})


class OrsSessions(Sessions):
    """ORS over HTTP, each call one request."""

    def __init__(self, port: int, prefix: str) -> None:
        super().__init__(port)
        self._url = f"http://127.0.0.1:{port}{prefix}"
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._headers: list[dict[str, str]] = []

    @property
    def count(self) -> int:
        return len(self._headers)

    async def open(self, count: int) -> None:
        for number in range(self.count, self.count + count):
            headers = {"X-Deployment": "frozen_lake"}
            events = await self._events("create_session", headers, None)
            headers["X-Session-ID"] = events["task_id"]
            body = {"env_name": "frozen_lake", "task_spec": {"seed": number, "env_kwargs": LAKE}}
            async with self._http.post(f"{self._url}/create", json=body, headers=headers) as answer:
                answer.raise_for_status()
            self._headers.append(headers)

    async def close(self) -> None:
        await self._http.close()

    async def _step_one(self, number: int, direction: str) -> None:
        body = {"name": f"move_{direction}", "input": {}}
        answer = orjson.loads((await self._events("call", self._headers[number], body))["end"])
        if not answer["ok"]:
            raise RuntimeError(str(answer))

    async def _events(self, verb: str, headers: dict[str, str], body: Any) -> dict[str, str]:
        async with self._http.post(f"{self._url}/{verb}", json=body, headers=headers) as answer:
            text = (await answer.text()).replace("\r\n", "\n")
            if answer.status != 200:
                raise RuntimeError(text[:500])
        blocks = (block.partition("\ndata:") for block in text.split("\n\n") if block.startswith("event:"))
        return {name.removeprefix("event:").strip(): data.strip() for name, _, data in blocks}


class HttpSessions(Sessions):
    """This server's own API: a connection for each environment."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._clients: list[Connection] = []
        self.env_ids: list[str] = []

    @property
    def count(self) -> int:
        return len(self._clients)

    async def open(self, count: int) -> None:
        clients = [await connect_raw(self._port) for _ in range(count)]
        seeds = list(range(self.count, self.count + count))
        body = {"env_name": "frozen_lake", "env_kwargs": LAKE, "seeds": seeds}
        self.env_ids += (await clients[0].call("/api/batch/initialize", body))["env_ids"]
        self._clients += clients

    async def close(self) -> None:
        for client in self._clients:
            client.close()

    async def _step_one(self, number: int, direction: str) -> None:
        body = orjson.dumps({"action": tool_call(f"move_{direction}")})
        await self._send(number, f"/api/environment/{self.env_ids[number]}/step", body)

    async def _send(self, number: int, path: str, body: bytes) -> None:
        answer = await self._clients[number].send(post(path, body))
        if b" 200 " not in answer[:16]:
            raise RuntimeError(answer[-500:].decode())


class EchoSessions(HttpSessions):
    """The bare echo of HTTP, with the same requests."""

    async def open(self, count: int) -> None:
        self._clients += [await connect_raw(self._port) for _ in range(count)]
        self.env_ids = ["3fa-0123456789abcdef0123456789abcdef"] * self.count


class BatchSessions(HttpSessions):
    """This server's own API: all environments in one call."""

    async def step(self, rounds: int) -> list[float]:
        taken = []
        for turn in range(self._taken, self._taken + rounds):
            action = tool_call(f"move_{DIRECTIONS[turn % 2]}")
            body = orjson.dumps({"env_ids": self.env_ids, "actions": [action] * self.count})
            began = time.perf_counter()
            await self._send(0, "/api/batch/step", body)
            taken += [time.perf_counter() - began] * self.count
        self._taken += rounds
        return taken


async def _asked(socket: ClientConnection, message: Any) -> None:
    await socket.send(orjson.dumps(message).decode())
    answer = orjson.loads(await socket.recv())
    if answer["type"] != "observation":
        raise RuntimeError(str(answer))


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """Give the milliseconds within which this share of the steps was answered."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] * 1000.0
