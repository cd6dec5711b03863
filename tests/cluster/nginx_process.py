"""A real nginx before tiny upstreams, to ask it where it sends each slot."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.children import end
from tests.cluster.redis_process import binary
from tests.ports import free_port
from tests.waiting import HANG_S, eventually, no_hang

_CONNECTIONS = 8
_BODY = re.compile(rb"HTTP/1\.1 (\d{3}).*?\r\n\r\n(\d+)\n", re.DOTALL)

_FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{http}
}}
"""
_HASHING = """
  map $uri $slot {{ ~^/(?<digits>[0-9a-f]+)$ $digits; }}
  upstream workers {{
    hash $slot consistent;
{servers}
    keepalive 64;
  }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 100000;
    location / {{
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
"""


class Upstreams:
    """Servers on ports of their own, in a thread; each answers every request with its port."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: dict[int, asyncio.Server] = {}
        self._open: dict[int, set[asyncio.StreamWriter]] = {}
        # Theirs while they are stopped, too.
        self.ports = sorted(free_port() for _ in range(count))
        self.keep(self.addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where they listen, in ascending order."""
        return tuple(f"127.0.0.1:{port}" for port in self.ports)

    def keep(self, addresses: Collection[str]) -> None:
        """End those that are not among ``addresses`` and start those that are."""
        for port, address in zip(self.ports, self.addresses, strict=True):
            if address in addresses and port not in self._servers:
                self._run(port)
            elif address not in addresses and port in self._servers:
                asyncio.run_coroutine_threadsafe(self._end(port), self._loop).result(HANG_S)

    def close(self) -> None:
        """End all."""
        self.keep(())
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(HANG_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, port: int) -> None:
        asyncio.run_coroutine_threadsafe(self._start(port), self._loop).result(HANG_S)

    async def _start(self, port: int) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        bound: int = server.sockets[0].getsockname()[1]
        self._servers[bound] = server
        self._open[bound] = set()

    async def _end(self, port: int) -> None:
        self._servers.pop(port).close()
        writers = self._open.pop(port)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port: int = writer.get_extra_info("sockname")[1]
        body = f"{port}\n".encode()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        self._open[port].add(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.get(port, set()).discard(writer)
            writer.close()


def write_configuration(folder: Path, http: str) -> None:
    """Write ``nginx.conf`` into ``folder``, all of whose files lie there, too.

    Args:
        folder: Of the process.
        http: What the servers do, for the block ``http``.
    """
    (folder / "nginx.conf").write_text(_FRAME.format(folder=folder, http=http), "utf-8")


class NginxProcess:
    """nginx in the foreground with the configuration in ``folder``; ended by its process id."""

    def __init__(self, folder: Path, port: int) -> None:
        """Start it.

        Args:
            folder: Holds ``nginx.conf``; errors go to ``error.log`` beside it until the configuration says otherwise.
            port: Where it will listen.
        """
        self.port = port
        log = folder / "error.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [binary("nginx"), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-p", str(folder)],
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
        try:
            eventually(lambda: self._listens() or self.process.poll() is not None, what="nginx")
            if self.process.poll() is not None:
                raise RuntimeError(f"nginx did not start:\n{log.read_text('utf-8')}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it."""
        end(self.process)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), HANG_S):
                return True
        except OSError:
            return False


class HashingNginx(NginxProcess):
    """nginx with ``hash $slot consistent`` over these upstreams, and nothing else."""

    def __init__(self, folder: Path, upstreams: Sequence[str]) -> None:
        port = free_port()
        servers = "\n".join(f"    server {address} max_fails=1 fail_timeout=60s;" for address in upstreams)
        write_configuration(folder, _HASHING.format(servers=servers, port=port))
        super().__init__(folder, port)

    async def assignment(self, slots: Sequence[str]) -> tuple[str, ...]:
        """The address that answers for each slot's text, asked through nginx over a few connections."""
        parts = await asyncio.gather(
            *(self._ask(slots[start::_CONNECTIONS]) for start in range(_CONNECTIONS))
        )
        found = [""] * len(slots)
        for start, part in enumerate(parts):
            found[start::_CONNECTIONS] = part
        return tuple(found)

    async def _ask(self, slots: Sequence[str]) -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        # The end of the connection marks the end of the last answer; all requests are sent ahead.
        for index, slot in enumerate(slots):
            last = "Connection: close\r\n" if index == len(slots) - 1 else ""
            writer.write(f"GET /{slot} HTTP/1.1\r\nHost: ring\r\n{last}\r\n".encode())
        try:
            async with no_hang():
                answers = _BODY.findall(await reader.read(-1))
        finally:
            writer.close()
            await writer.wait_closed()
        assert [status for status, _ in answers] == [b"200"] * len(slots)
        return [f"127.0.0.1:{int(port)}" for _, port in answers]
