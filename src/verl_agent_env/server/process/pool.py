"""A node's pool of workers: gunicorn supervises them, each listens on an address of its own and on the node's.

The supervisor opens all sockets before it forks. A worker that dies leaves its socket open in the supervisor:
connections wait in its queue until the next worker has taken its place, and none is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from uvicorn import Config, Server
from uvicorn_worker import UvicornWorker

from verl_agent_env import background
from verl_agent_env.cluster.backends import BackendOptions, open_backend
from verl_agent_env.cluster.store import Store
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.config import LISTEN_BACKLOG, ClusterSettings, ServerSettings
from verl_agent_env.engine.execution.under_way import clear_record, shared_records
from verl_agent_env.server.http.fast_path import FastPathProtocol
from verl_agent_env.server.http.tls import server_context
from verl_agent_env.server.http.websocket import WebSocketProtocol
from verl_agent_env.server.process.examiner import WorkerExaminer, end_of
from verl_agent_env.wire.suspicions import Suspicion

logger = logging.getLogger(__name__)

UVICORN_OPTIONS: dict[str, Any] = {
    "loop": "uvloop",
    "http": FastPathProtocol,
    "ws": WebSocketProtocol,
    # A session would take 45 KB more for it, and a step twice as long.
    "ws_per_message_deflate": False,
    "ws_max_size": 4 * 1024 * 1024,
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "date_header": False,
    # Who is at the other end decides about commands and failed tokens: no header may say otherwise.
    "proxy_headers": False,
}
"""How uvicorn serves, alone and in a pool."""

_BLOCKED_WORKER_S = 120
"""A worker whose event loop has not turned for so long is killed."""
_ENDING_S = 15
"""Seconds that a worker gets, after running requests had theirs, to leave the cluster and to close its environments."""
_NOTIFY_S = 0.5
# The supervisor starts no worker meanwhile.
_STORE_CALL_S = 1.0


@dataclass(frozen=True)
class WorkerStart:
    """Arguments of a worker's process."""

    index: int
    """Which worker of the pool it is."""
    is_restart: bool
    """Whether another process had the index before."""
    record: memoryview
    """Where it writes what is under way."""
    suspicions: tuple[Suspicion, ...]
    """What its supervisor holds against calls."""


class _Log(Logger):  # type: ignore[misc]
    """gunicorn's own lines, written as all others are."""

    def setup(self, cfg: Any) -> None:
        """Leave the writing to the root's handler."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class AddressWorker(UvicornWorker):  # type: ignore[misc]
    """uvicorn on two of the supervisor's sockets: the node's, and that of its own index."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {**UVICORN_OPTIONS, "callback_notify": None}
    index = -1
    is_restart = False
    record = memoryview(b"")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._others: list[Any] = []
        # The base class gives it the handlers of gunicorn's log, which has none.
        logging.getLogger("uvicorn.error").propagate = True

    def take_index(self, index: int, record: memoryview, *, is_restart: bool) -> None:
        """Become the worker of this index, the first one or a later one, which has its calls under way on ``record``."""
        self.index, self.is_restart, self.record = index, is_restart, record
        listeners: list[Any] = vars(self)["sockets"]
        self.sockets = [listeners[1 + index], listeners[0]]
        self._others = [listener for listener in listeners if listener not in self.sockets]

    def init_signals(self) -> None:
        """Outlive a hang-up of the terminal, as the supervisor does, which alone decides when a worker ends."""
        super().init_signals()
        # Not ignored but handled: what is ignored stays so in whatever a worker starts.
        signal.signal(signal.SIGHUP, lambda *_: None)

    def init_process(self) -> None:
        """Serve, in the worker's own process."""
        # As long as one process holds a socket, connections to it are taken: when the pool ends, who calls a worker
        # that is gone must be refused, and not wait for its neighbours to end, too.
        for listener in self._others:
            listener.close()
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout - _ENDING_S
        self.app.begin_worker(self.index, self.is_restart)
        super().init_process()

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        self.config.load()
        self.config.ssl = server_context(self.wsgi.settings.tls)
        server = _DrainingServer(self.config, self.wsgi.worker.drain)
        self._install_sigquit_handler()
        # uvicorn's own way would call every tenth time that it turns, which a busy loop seldom does, and no more once
        # the server stops.
        notifying = background.start("signs of life", self._notify_forever, pause_s=_NOTIFY_S)
        try:
            await server.serve(sockets=self.sockets)
        finally:
            notifying.cancel()
            # It ends in order, by nobody's fault, whatever hangs in its threads.
            clear_record(self.record)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _notify_forever(self) -> None:
        """Tell the supervisor that the worker runs; end with it, for nobody would replace a worker any more."""
        while os.getppid() == self.ppid:
            self.notify()
            await asyncio.sleep(_NOTIFY_S)
        logger.error("supervisor is gone; the worker ends")
        signal.raise_signal(signal.SIGTERM)
        # Until the server has ended: a second signal would hurry it.
        await asyncio.Event().wait()


class _DrainingServer(Server):
    """Gives its environments to other workers before it stops listening; a second signal ends it at once."""

    def __init__(self, config: Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._was_told = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave, at a signal."""
        if self._loop is None or self._was_told:
            super().handle_exit(sig, frame)
            return
        self._was_told = True
        # A signal comes between any two instructions.
        self._loop.call_soon_threadsafe(self._leave, sig, frame)

    def _leave(self, sig: int, frame: FrameType | None) -> None:
        async def leave() -> None:
            try:
                await self._drain()
            except Exception:
                logger.exception("draining failed")
            Server.handle_exit(self, sig, frame)

        self._leaving = asyncio.create_task(leave())


class Standstill:
    """Notices when this process got no turn for long: others may have had none either, and their silence says nothing."""

    def __init__(self, silence_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take others for dead after ``silence_s``.

        Args:
            silence_s: Seconds of silence.
            clock: Time in seconds.
        """
        self._half_s = silence_s / 2
        self._clock = clock
        self._last_turn = clock()
        self._until = float("-inf")

    def was_lately(self) -> bool:
        """Tell, at a turn of this process, whether others still need time to give a sign of life; turns are a small part of it apart."""
        now = self._clock()
        if now - self._last_turn > self._half_s:
            self._until = now + self._half_s
        self._last_turn = now
        return now < self._until


class _Supervisor(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter for a fixed number of workers, each with its own index."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.starts: Counter[int] = Counter()
        self._examiner: WorkerExaminer = app.examiner
        self._standstill = Standstill(self.timeout)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Turn often enough to look at a silent worker before others may take its slots."""
        found: list[int] = super().wait_for_signals(min(timeout, self.timeout / 8))
        return found

    def murder_workers(self) -> None:
        """Kill silent workers, and examine first what they are at; none right after the whole machine stood still."""
        if self._standstill.was_lately():
            return
        for pid, worker in list(self.WORKERS.items()):
            # It may be closed by now.
            with contextlib.suppress(OSError, ValueError):
                self._examiner.look(worker.index, pid, time.monotonic() - worker.tmp.last_update())
        super().murder_workers()

    def reap_workers(self) -> None:
        """Take notice of workers that ended, and of what they were at."""
        workers: dict[int, AddressWorker] = dict(self.WORKERS)
        statuses: dict[int, Any] = {}
        for pid in workers:
            with contextlib.suppress(ChildProcessError):
                statuses[pid] = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        is_over = False
        while not is_over:
            try:
                super().reap_workers()
                is_over = True
            except HaltServer:
                # It ends the pool for an exit code that says that a worker cannot start. An environment's code may exit
                # with the same one.
                if not self._note_ended(workers, statuses):
                    raise
        self._note_ended(workers, statuses)

    def _note_ended(self, workers: dict[int, AddressWorker], statuses: dict[int, Any]) -> bool:
        """Tell the examiner of those of ``workers`` that are gone; gives whether calls were under way in one of them."""
        had_calls = False
        for pid in workers.keys() - self.WORKERS.keys():
            worker = workers.pop(pid)
            worker.tmp.close()
            end = end_of(statuses.get(pid), was_silent=worker.aborted)
            had_calls |= self._examiner.ended(worker.index, end)
        return had_calls

    def manage_workers(self) -> None:
        """Start workers in place of those that ended, after it is told what ended them."""
        self._examiner.tell()
        super().manage_workers()

    def handle_int(self) -> None:
        """In good order, as SIGTERM; a second one is not waited for so long. The base class would wait in vain."""
        self.handle_term()

    def handle_quit(self) -> None:
        """Stop in good order, as at SIGTERM."""
        self.handle_term()

    def handle_hup(self) -> None:
        """Have the workers read their tokens again. Anything else is read by a new node only: a reload would run two
        workers on one address."""
        if self.app.has_token_file:
            self.kill_workers(signal.SIGHUP)
        else:
            self.log.warning("reloading is not supported: restart the node")

    def handle_ttin(self) -> None:
        """The number of workers is part of the plan that nginx has."""
        self.log.warning("the number of workers is fixed: start another node")

    def handle_ttou(self) -> None:
        """Refuse to change the number of workers."""
        self.handle_ttin()

    def handle_usr2(self) -> None:
        """Nodes are restarted one after the other instead."""
        self.log.warning("reloading is not supported: restart the node")


class WorkerPool(BaseApplication):  # type: ignore[misc]
    """gunicorn with one address for each worker and one for all."""

    def __init__(
        self,
        settings: ServerSettings,
        listeners: list[socket.socket],
        make_app: Callable[[WorkerStart], Any],
    ) -> None:
        """Prepare a pool; ``run()`` serves until a signal ends it.

        Args:
            settings: Of the server.
            listeners: The node's socket, then one for each worker; the pool takes them over.
            make_app: Makes, in a worker's process, its application, an ``EnvServer``.
        """
        self._settings = settings
        self._binds = [f"fd://{listener.detach()}" for listener in listeners]
        self._make_app = make_app
        self._start = WorkerStart(-1, False, memoryview(b""), ())
        self.records = shared_records(settings.cluster.workers)
        """What each worker is at."""
        self.examiner = WorkerExaminer(self.records, _opener(settings.cluster), self._blocked_s())
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what to do."""
        settings = self._settings
        options: dict[str, Any] = {
            "bind": self._binds,
            "workers": settings.cluster.workers,
            "worker_class": AddressWorker,
            "backlog": LISTEN_BACKLOG,
            "keepalive": settings.keep_alive_s,
            "graceful_timeout": settings.shutdown_grace_s + _ENDING_S,
            "timeout": self._blocked_s(),
            "loglevel": "warning" if settings.log_level == "info" else settings.log_level,
            "logger_class": _Log,
            "pre_fork": _give_index,
            "control_socket_disable": True,
        }
        for name, value in options.items():
            # The control socket is a novelty of gunicorn 25.
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def _blocked_s(self) -> int:
        """Seconds without a sign of life after which a worker is killed."""
        cluster = self._settings.cluster
        return Timing(cluster.lease_s).blocked_after_s if cluster.is_shared else _BLOCKED_WORKER_S

    @property
    def has_token_file(self) -> bool:
        """True if there is a token file, which can be read again."""
        return bool(self._settings.auth_file)

    def begin_worker(self, index: int, is_restart: bool) -> None:
        """In a worker's process: remember which one it is."""
        self._start = WorkerStart(index, is_restart, self.records[index], tuple(self.examiner.known))

    def load(self) -> Any:
        """In a worker's process: its application."""
        return self._make_app(self._start)

    def run(self) -> None:
        """Supervise the workers until a signal ends them."""
        _Supervisor(self).run()


def _give_index(supervisor: _Supervisor, worker: AddressWorker) -> None:
    taken = {other.index for other in supervisor.WORKERS.values()}
    index = next(index for index in range(supervisor.num_workers) if index not in taken)
    worker.take_index(index, supervisor.app.records[index], is_restart=supervisor.starts[index] > 0)
    supervisor.starts[index] += 1


def _opener(cluster: ClusterSettings) -> Callable[[], Store]:
    """Return what opens the store of suspicions: the cluster's, or the supervisor's memory, which workers inherit."""
    options = BackendOptions(cluster.namespace, _STORE_CALL_S, num_slots=cluster.slots, logs=None)
    if cluster.is_shared:
        return lambda: open_backend(cluster.redis, options).store
    memory = open_backend("", options).store
    return lambda: memory
