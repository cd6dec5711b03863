"""Applications under uvicorn in a thread of this process: on real sockets, and yet to be looked into."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
import uvicorn

from tests.server import rude_env, slow_env
from tests.server.conftest import GATED, Wire
from tests.steered import SteeredLoop
from tests.waiting import HANG_S, eventually
from verl_agent_env.config import ConnectionLimits, HttpLimits, ServerSettings
from verl_agent_env.envs.registry import BUILT_IN, EnvSpec, Registry
from verl_agent_env.server import create_app
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.http.fast_path import FastPathProtocol
from verl_agent_env.server.process.pool import UVICORN_OPTIONS

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

RUDE = "rude/raising-v0"
MAX_BODY_BYTES = 50_000
STEERED = {"loop": "tests.steered:SteeredLoop"}
"""Options of uvicorn with which :meth:`Served.pass_time` goes."""


class WatchedProtocol(FastPathProtocol):
    """Notes which requests fell back to the slow path."""

    fallbacks: ClassVar[list[bytes]] = []

    def _fall_back(self) -> None:
        self.fallbacks.append(self.url)
        super()._fall_back()


class _Server(uvicorn.Server):
    """Says which loop it runs in."""

    loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


class Served:
    """An application under uvicorn, until it is stopped."""

    def __init__(
        self,
        http: str | type[asyncio.Protocol] = WatchedProtocol,
        uvicorn_options: dict[str, Any] | None = None,
        http_limits: dict[str, Any] | None = None,
        connection_limits: dict[str, Any] | None = None,
        listener: socket.socket | None = None,
        identity: WorkerIdentity | None = None,
        tracer_provider: TracerProvider | None = None,
        **settings: Any,
    ) -> None:
        specs = (*BUILT_IN, EnvSpec(RUDE, rude_env.ENTRY_POINT), EnvSpec(GATED, slow_env.ENTRY_POINT))
        limits = HttpLimits(**{"max_body_bytes": MAX_BODY_BYTES, **(http_limits or {})})
        self.app = create_app(
            ServerSettings(
                http_limits=limits,
                connection_limits=ConnectionLimits(**(connection_limits or {})),
                **settings,
            ),
            Registry({spec.name: spec for spec in specs}),
            identity,
            tracer_provider,
        )
        listener = listener or socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = listener.getsockname()[1]
        options = {**UVICORN_OPTIONS, "http": http, **(uvicorn_options or {})}
        self.server = _Server(uvicorn.Config(self.app, **options))
        # The application collects garbage when it begins: its own, not that of all tests.
        gc.freeze()
        self._thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self._thread.start()
        eventually(lambda: self.server.started or not self._thread.is_alive(), what="the server")
        assert self.server.started

    def initialize(self, env_name: str = "frozen_lake", **request: Any) -> str:
        """The id of a new environment."""
        answer = self.call("/api/environment/initialize", {"env_name": env_name, "seed": 1, **request})
        return str(answer["env_id"])

    def call(self, path: str, document: Any) -> Any:
        """The JSON answer to a JSON body."""
        wire = Wire(self.port)
        wire.send(post(path, orjson.dumps(document)))
        status, _, body = wire.answer()
        wire.close()
        assert status == 200, body
        return orjson.loads(body)

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass on the server, in no time; its loop is a ``SteeredLoop``.

        Returns when it has: what is sent afterwards arrives afterwards.
        """
        loop, has_passed = self.server.loop, threading.Event()
        assert isinstance(loop, SteeredLoop)
        loop.call_soon_threadsafe(loop.put_forward, seconds)
        loop.call_soon_threadsafe(has_passed.set)
        assert has_passed.wait(HANG_S)

    def stop(self) -> None:
        """End it in good order."""
        self.server.should_exit = True
        self._thread.join(HANG_S)
        assert not self._thread.is_alive()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole POST request."""
    return http_request("POST", path, body, *headers, f"Content-Length: {len(body)}")


def http_request(method: str, path: str, body: bytes = b"", *headers: str, version: str = "1.1") -> bytes:
    """A request, with no other headers than these and a host."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
