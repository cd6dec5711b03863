"""A light client of OpenEnv's WebSocket: what its own client sends, and no more."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import orjson
from websockets.sync.client import ClientConnection, connect

from tests.waiting import HANG_S


class OpenEnvSocket:
    """One connection; answers are what the frames hold."""

    def __init__(self, url: str, env_name: str, query: str = "", **options: Any) -> None:
        """Connect.

        Args:
            url: Of the server.
            env_name: Of the environment.
            query: Behind the path.
            options: Of the library: headers, an origin.
        """
        target = f"ws{url.removeprefix('http')}/openenv/{env_name}/ws{query}"
        self._stack = ExitStack()
        opened = connect(target, open_timeout=HANG_S, proxy=None, **options)
        self.connection: ClientConnection = self._stack.enter_context(opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def ask(self, kind: str, data: Any = None) -> dict[str, Any]:
        """Send a message and give the whole answer."""
        return self.ask_raw(
            orjson.dumps({"type": kind} if data is None else {"type": kind, "data": data}).decode()
        )

    def ask_raw(self, text: str) -> dict[str, Any]:
        """Send a text as it is."""
        self.connection.send(text)
        answer: dict[str, Any] = orjson.loads(self.connection.recv(HANG_S))
        return answer

    def reset(self, **data: Any) -> dict[str, Any]:
        """Begin an episode."""
        return self._observed(self.ask("reset", data))

    def step(self, **data: Any) -> dict[str, Any]:
        """Carry out an action."""
        return self._observed(self.ask("step", data))

    def state(self) -> dict[str, Any]:
        """Ask where the session stands."""
        answer = self.ask("state")
        assert answer["type"] == "state", answer
        data: dict[str, Any] = answer["data"]
        return data

    def drop(self) -> None:
        """Break the connection, with no word of farewell."""
        self.connection.socket.close()

    @staticmethod
    def _observed(answer: dict[str, Any]) -> dict[str, Any]:
        assert answer["type"] == "observation", answer
        data: dict[str, Any] = answer["data"]
        return data
