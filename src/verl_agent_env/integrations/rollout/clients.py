"""Clients that all episodes of a process or of an event loop share, so that their steps share requests."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from verl_agent_env.client import AsyncEnvClient, EnvClient
from verl_agent_env.integrations.rollout.options import RolloutOptions

ClientT = TypeVar("ClientT")


class SharedClients(Generic[ClientT]):
    """One client for equal options of the connection; safe to use from several threads."""

    def __init__(self, make: Callable[..., ClientT]) -> None:
        """Begin without clients; ``make`` takes the arguments of :class:`AsyncEnvClient`."""
        self._make = make
        self._clients: dict[tuple[Any, ...], ClientT] = {}
        self._lock = threading.Lock()

    def client(self, options: RolloutOptions) -> ClientT:
        """Return the client for these options, a new one for the first of its kind.

        Raises:
            ValueError: The URL is malformed, or an option is out of its range.
        """
        settings = options.connection()
        key = tuple(settings.values())
        with self._lock:
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = self._make(**settings)
            return client

    def take_all(self) -> list[ClientT]:
        """Forget all clients and return them, for their closing."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
            return clients


_of_process: SharedClients[EnvClient] = SharedClients(EnvClient)
_of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SharedClients[AsyncEnvClient]] = (
    weakref.WeakKeyDictionary()
)


def process_client(options: RolloutOptions) -> EnvClient:
    """Return the blocking client that all episodes of this process share; it is closed when the process ends."""
    return _of_process.client(options)


def close_process_clients() -> None:
    """Close the blocking clients of this process, with the environments that they have made."""
    for client in _of_process.take_all():
        client.close()


def loop_clients() -> SharedClients[AsyncEnvClient]:
    """Return the clients of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _of_loop.get(loop)
    if found is None:
        found = _of_loop[loop] = SharedClients(AsyncEnvClient)
    return found


async def close_loop_clients() -> None:
    """Close the clients of the running event loop, with the environments that they have made."""
    for client in loop_clients().take_all():
        await client.close()


atexit.register(close_process_clients)
