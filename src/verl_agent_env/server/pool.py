"""A node's pool of workers: gunicorn supervises them, each listens on an address of its own.

The master opens all sockets before it forks. A worker that dies leaves its socket open in the master: connections wait
in its queue until the next worker has taken its place, and none is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gunicorn.app.base import BaseApplication
from starlette.types import ASGIApp
from uvicorn_worker import UvicornWorker

_BACKLOG = 16_384
_BLOCKED_WORKER_S = 60


@dataclass(frozen=True)
class PoolSettings:
    """The processes of a pool."""

    host: str
    """Address to listen on."""
    port: int
    """Port of the first worker; the others follow, each with the next number."""
    workers: int
    """How many workers."""
    keep_alive_s: int
    """Seconds that an idle connection is kept."""
    shutdown_grace_s: int
    """Seconds that running requests get when a worker stops."""
    log_level: str
    """Of gunicorn's own messages."""

    def addresses(self) -> list[str]:
        """``host:port`` of each worker."""
        return [f"{self.host}:{self.port + index}" for index in range(self.workers)]


class AddressWorker(UvicornWorker):  # type: ignore[misc]
    """uvicorn on one of the master's sockets, named by its index."""

    CONFIG_KWARGS = {  # noqa: RUF012 - uvicorn-worker's own name and form
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "date_header": False,
    }
    address_index = -1

    def take_address(self, index: int) -> None:
        """Keep only the socket of this index."""
        self.address_index = index
        self.sockets = [self.sockets[index]]


class WorkerPool(BaseApplication):  # type: ignore[misc]
    """gunicorn with one address for each worker."""

    def __init__(self, settings: PoolSettings, make_app: Callable[[int], ASGIApp]) -> None:
        """Prepare a pool; ``run()`` serves until a signal ends it.

        Args:
            settings: The processes.
            make_app: Makes the application of the worker with this index, in the worker's process.
        """
        self._settings = settings
        self._make_app = make_app
        self._index = -1
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what to do."""
        settings = self._settings
        options: dict[str, Any] = {
            "bind": settings.addresses(),
            "workers": settings.workers,
            "worker_class": AddressWorker,
            "backlog": _BACKLOG,
            "keepalive": settings.keep_alive_s,
            "graceful_timeout": settings.shutdown_grace_s,
            "timeout": _BLOCKED_WORKER_S,
            "loglevel": settings.log_level,
            "pre_fork": _give_free_address,
            "post_fork": _remember_address,
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def take_index(self, index: int) -> None:
        """In a worker: remember which one it is."""
        self._index = index

    def load(self) -> ASGIApp:
        """In a worker: its application."""
        return self._make_app(self._index)


def _give_free_address(arbiter: Any, worker: AddressWorker) -> None:
    taken = {other.address_index for other in arbiter.WORKERS.values()}
    worker.take_address(next(index for index in range(len(arbiter.LISTENERS)) if index not in taken))


def _remember_address(arbiter: Any, worker: AddressWorker) -> None:
    worker.app.take_index(worker.address_index)
