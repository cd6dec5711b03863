"""Upstreams that answer what they were asked, to see what nginx makes of a request."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import orjson

from tests.cluster.nginx_process import Upstreams


class EchoServers(Upstreams):
    """Each answers a request with what it got: ``{address, method, target, headers, size}``."""

    def __init__(self, count: int) -> None:
        self.asked: list[dict[str, Any]] = []
        """All requests of all of them, in order."""
        self.mute: set[str] = set()
        """Addresses that read a request and then hang up, as a worker that dies over it."""
        self.answer_size = 0
        """Bytes that every answer has in addition."""
        self.media_type = "application/octet-stream"
        """Of every answer."""
        super().__init__(count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port: int = writer.get_extra_info("sockname")[1]
        self._open[port].add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(f"127.0.0.1:{port}", reader, writer):
                pass
        self._open.get(port, set()).discard(writer)
        writer.close()

    async def _answer(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        method, target, _ = first.split(" ")
        size = len(await reader.readexactly(int(headers.get("content-length", 0))))
        asked = {"address": address, "method": method, "target": target, "headers": headers, "size": size}
        self.asked.append(asked)
        if address in self.mute:
            return False
        body = orjson.dumps({**asked, "filler": "x" * self.answer_size})
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {self.media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True
