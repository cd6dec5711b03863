"""The ASGI application: FastAPI for the pages, the dispatcher for the API."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from fastapi import Request as PageRequest
from starlette.exceptions import HTTPException
from starlette.responses import Response as PageResponse
from starlette.types import Receive, Scope, Send

from verl_agent_env import __version__, background, spans
from verl_agent_env.cluster.backends import open_episodes
from verl_agent_env.config import ServerSettings
from verl_agent_env.engine import AwaitableOrValue
from verl_agent_env.engine.episodes.collector import EpisodeOptions
from verl_agent_env.engine.host.reaper import reap_forever
from verl_agent_env.engine.tasks import TaskFinder
from verl_agent_env.envs.registry import Registry, default_registry
from verl_agent_env.envs.task_files import read_task_files
from verl_agent_env.errors import InternalError, MethodNotAllowedError, RouteNotFoundError, VerlAgentEnvError
from verl_agent_env.garbage import collect_seldom
from verl_agent_env.moved import renamed_argument
from verl_agent_env.server.api.batches import BatchHandlers
from verl_agent_env.server.api.catalogue import CatalogueHandlers
from verl_agent_env.server.api.cluster_events import ClusterEventHandlers
from verl_agent_env.server.api.environments import EnvironmentHandlers
from verl_agent_env.server.api.episodes import EpisodeHandlers
from verl_agent_env.server.api.mcp import MAX_MCP_BYTES, MCP_PATH, McpRoute
from verl_agent_env.server.api.operations import Operations
from verl_agent_env.server.api.routes import (
    batch_routes,
    environment_routes,
    episode_routes,
    run_routes,
    server_routes,
    task_routes,
)
from verl_agent_env.server.api.runs import RunHandlers
from verl_agent_env.server.api.server import ServerHandlers
from verl_agent_env.server.api.tasks import TaskHandlers
from verl_agent_env.server.api.wires.openenv.handlers import OpenEnvHandlers
from verl_agent_env.server.api.wires.openenv.socket import SocketServer
from verl_agent_env.server.api.wires.openenv.socket_admission import SocketAdmission
from verl_agent_env.server.api.wires.ors.handlers import OrsHandlers
from verl_agent_env.server.api.wires.ors.root_requests import ORS_PREFIX, as_ors
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.cluster.peers import WORKER_PATH, Peers
from verl_agent_env.server.cluster.reachability import ReachabilityCheck
from verl_agent_env.server.cluster.wiring import open_backend_of, wire_worker
from verl_agent_env.server.http.admission import Admission
from verl_agent_env.server.http.auth import TokenGuard, peer_secret_of
from verl_agent_env.server.http.commands import configure_commands, watch_sockets
from verl_agent_env.server.http.connections import Connections
from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE, Dispatcher
from verl_agent_env.server.http.idempotency import IdempotentRequests, KeptAnswers, slot_of_key
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.openapi import document
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.proxies import TrustedProxies
from verl_agent_env.server.http.route_table import RouteTable
from verl_agent_env.server.http.tls import peer_context
from verl_agent_env.server.http.types import PROBLEM_JSON, Response, Route
from verl_agent_env.server.http.web_pages import WebPages
from verl_agent_env.server.process.allocator import MemoryReturn, keep_little
from verl_agent_env.server.process.loop_watch import LoopWatch

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from verl_agent_env.server.http.tracing import Tracing

logger = logging.getLogger(__name__)

_SWITCH_S = 0.001
_WATCHED_PATHS = frozenset({"/healthz", "/readyz", "/metrics", WORKER_PATH})
"""Asked for all the time, by those who watch: their calls have no spans."""
_DESCRIPTION = (
    "LLM-agent environments for reinforcement learning: chat messages in, tool calls out, by the batch."
)


class EnvServer(FastAPI):
    """The server of one worker.

    API calls go through the dispatcher; FastAPI documents them; everything else is FastAPI's.
    """

    def __init__(
        self,
        settings: ServerSettings,
        registry: Registry,
        identity: WorkerIdentity | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        super().__init__(
            title="verl-agent-env",
            version=__version__,
            description=_DESCRIPTION,
            lifespan=_lifespan,
            docs_url=None,
            redoc_url=None,
        )
        self.settings = settings
        limits = settings.http_limits
        address = f"{settings.host}:{settings.port}"
        identity = identity or WorkerIdentity(address, (address,), supervisor=secrets.token_hex(16))
        cluster = settings.cluster
        token, tls = next(iter(settings.auth_tokens), ""), peer_context(settings.tls)
        self.worker = wire_worker(
            registry,
            settings.host_limits,
            cluster,
            identity,
            open_backend_of(cluster, limits),
            lambda supervisor_at: _http_peers(cluster.peer_timeout_s, token, supervisor_at, tls),
            episodes=_episode_options(settings),
        )
        self.env_host = self.worker.host
        proxies = self._proxies = TrustedProxies(settings.trusted_proxies, settings.root_path)
        connections = Connections(settings.connection_limits, proxies)
        self.loop_watch = LoopWatch()
        self.metrics = Metrics(
            self.env_host,
            self.worker.forwarder.forwarded,
            connections,
            self.loop_watch.held_up,
            lambda: self.loop_watch.longest_s,
        )
        self.server_handlers = ServerHandlers(self.metrics, self.worker)
        watch = self.worker.watch(self.metrics)
        self._routes = [
            *self._routes_of_environments(),
            *run_routes(RunHandlers(self.env_host)),
            *server_routes(self.server_handlers, CatalogueHandlers(registry), ClusterEventHandlers(watch)),
        ]
        self.tracing = self._tracing_by(tracer_provider or spans.tracer_provider())
        routed = [self._traced(self.worker.route_to_owner(route)) for route in self._routes]
        self.operations = Operations(RouteTable(routed), self.worker.table.new_env_id_nearby)
        openenv = OpenEnvHandlers(registry, self.env_host.kinds, self.operations)
        ors = OrsHandlers(registry, self.env_host.kinds, self.operations)
        others = [*self.worker.internal_routes, *openenv.routes(), *ors.routes()]
        routes = [*routed, *map(self._traced, others)]
        self._admission = Admission.by_settings(
            settings, proxies, peer_secret=peer_secret_of(identity.supervisor)
        )
        self.guard = self._admission.guard
        self.memory_return = MemoryReturn()
        self.dispatcher = Dispatcher(
            routes,
            limits,
            self._admission,
            self.metrics,
            connections,
            log_all=settings.access_log,
            on_idle=self.memory_return.soon,
            on_stop=watch.stop,
        )
        self._socket_admission = SocketAdmission(
            registry, self.dispatcher, SocketServer(self.operations, self.metrics)
        )
        self.mcp_route = McpRoute(self.operations, min(limits.max_body_bytes, MAX_MCP_BYTES))
        WebPages().add_to(self)
        self.add_exception_handler(HTTPException, _page_problem)
        self.add_exception_handler(Exception, _page_problem)
        self.router.default = self._serve_unknown
        configure_commands(settings)
        if settings.model_endpoints:
            from verl_agent_env.envs.model_endpoints import read_endpoints, use_endpoints

            use_endpoints(read_endpoints(Path(settings.model_endpoints), os.environ))

    def _routes_of_environments(self) -> list[Route]:
        host, limits, num_slots = self.env_host, self.settings.http_limits, self.worker.table.num_slots
        answers = KeptAnswers(
            limits.idempotency_memory_s,
            limits.idempotency_memory_bytes,
            host.clock,
            lambda name: host.env_table.epoch_of(slot_of_key(name, num_slots)),
        )
        idempotent = IdempotentRequests(self.worker.idempotency_records, answers, host.slices.turn, num_slots)
        tasks = TaskFinder(
            host.registry,
            host.kinds,
            host.executor,
            host.slices.turn,
            read_task_files(host.registry, self.settings.tasks),
            self.settings.host_limits,
        )
        kept = None if host.collector is None else self.worker.kept_episodes(host.collector.store)
        return [
            *environment_routes(
                host,
                EnvironmentHandlers(host, self.worker.create, idempotent, tasks, self._start_operation),
            ),
            *batch_routes(
                BatchHandlers(
                    self.worker.batches,
                    host.registry,
                    host.kinds,
                    idempotent,
                    self.metrics,
                    limits,
                    self.worker.workers_for_new,
                    host.slices.turn,
                    tasks,
                )
            ),
            *task_routes(TaskHandlers(host.registry, tasks)),
            *episode_routes(EpisodeHandlers(host, kept)),
        ]

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return document(self, self._routes, has_tokens=self.guard.has_tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event: API calls by the dispatcher, the rest as FastAPI does."""
        if scope["type"] == "http":
            found = self.dispatcher.match(scope["path"])
            if found is None or scope["path"].startswith(ORS_PREFIX):
                scope = as_ors(scope)
                found = self.dispatcher.match(scope["path"])
            if found is not None:
                await self.dispatcher.serve(*found, scope, receive, send)
            elif scope["path"] == MCP_PATH:
                await self.dispatcher.serve_page(self.mcp_route, scope, receive, send, "read")
            else:
                # The pages' own links are relative; the API's document names the path.
                root_path = self._proxies.root_path(Peer.of_scope(scope), dict(scope["headers"]))
                scope = {**scope, "root_path": root_path or scope.get("root_path", "")}
                await self.dispatcher.serve_page(super().__call__, scope, receive, send)
        elif scope["type"] == "websocket":
            with contextlib.nullcontext() if self.tracing is None else self.tracing.within(scope["headers"]):
                await self._socket_admission(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _tracing_by(self, provider: TracerProvider | None) -> Tracing | None:
        if provider is None:
            return None
        from verl_agent_env.server.http.tracing import Tracing

        return Tracing(provider, self.worker.name, self.env_host.env_table.get)

    def _start_operation(self, *arguments: Any, **options: Any) -> AwaitableOrValue[Response]:
        return self.operations.start(*arguments, **options)

    def _traced(self, route: Route) -> Route:
        """Return the route, a span made for each request if calls are traced."""
        if self.tracing is None or route.path in _WATCHED_PATHS:
            return route
        return self.tracing.traced(route)

    async def _serve_unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.dispatcher.serve({}, "", scope, receive, send)


def _http_peers(
    timeout_s: float, token: str, supervisor_at: Callable[[str], str], tls: ssl.SSLContext | None
) -> Peers:
    # A process on its own calls nobody, and starts a fifth sooner without an HTTP client.
    from verl_agent_env.server.cluster.http_peers import HttpPeers

    return HttpPeers(timeout_s, token, supervisor_at, tls)


def _episode_options(settings: ServerSettings) -> EpisodeOptions | None:
    where, max_bytes = settings.keep_trajectories, settings.keep_trajectories_bytes
    if not where:
        return None
    store = open_episodes(where, max_bytes, settings.cluster.redis, settings.cluster.namespace)
    # Only what is kept in memory has to fit in there with what goes on.
    return EpisodeOptions(store, max_bytes / 2 if where == "memory" else float("inf"))


@renamed_argument("place", "identity")
def create_app(
    settings: ServerSettings | None = None,
    registry: Registry | None = None,
    identity: WorkerIdentity | None = None,
    tracer_provider: TracerProvider | None = None,
) -> EnvServer:
    """The server application.

    Args:
        settings: The defaults when not given.
        registry: The environments; all installed ones when not given.
        identity: Which worker of a pool it is; none when not given: a process on its own.
        tracer_provider: Traces its calls; the program's own when not given, if it has set one.
    """
    return EnvServer(settings or ServerSettings(), registry or default_registry(), identity, tracer_provider)


@contextlib.asynccontextmanager
async def _lifespan(app: EnvServer) -> AsyncIterator[dict[str, Any]]:
    thresholds = gc.get_threshold()
    collect_seldom()
    # Environments that compute in threads take the interpreter from the loop for so long at a time.
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    keep_little()
    await app.worker.start()
    tasks = [
        background.start("reaper", lambda: reap_forever(app.env_host)),
        background.start("loop watch", app.loop_watch.run),
        background.start("memory return", app.memory_return.run),
    ]
    if app.settings.cluster.is_shared:
        reachability = ReachabilityCheck(
            app.worker.membership, app.worker.peers, pause_s=app.settings.cluster.lease_s
        )
        tasks.append(background.start("reachability", reachability.run))
    if app.env_host.collector is not None:
        tasks.append(background.start("episodes", app.env_host.collector.store.run))
        tasks.append(background.start("episode notes", app.env_host.collector.run))
    if app.settings.auth_file:
        _reload_at_hangup(app.guard)
    if app.settings.mcp_allow_commands:
        tasks.append(asyncio.create_task(watch_sockets()))
    app.server_handlers.ready = True
    try:
        yield {DISPATCHER_STATE: app.dispatcher}
    finally:
        app.server_handlers.ready = False
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await app.mcp_route.aclose()
        await app.worker.stop()
        app.dispatcher.reject_pending()
        await app.env_host.stop()
        if app.tracing is not None:
            await app.tracing.flush()
        sys.setswitchinterval(switch_s)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _reload_at_hangup(guard: TokenGuard) -> None:
    # Not where signals belong to somebody else: outside the main thread, or where there are none.
    with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, guard.reload)


async def _page_problem(request: PageRequest, raised: Exception) -> PageResponse:
    """Report an error of a page as the dispatcher reports one of a call."""
    error: VerlAgentEnvError = InternalError()
    headers: Mapping[str, str] = {}
    if isinstance(raised, HTTPException):
        headers = raised.headers or {}
        if raised.status_code == 404:
            error = RouteNotFoundError(request.url.path)
        elif raised.status_code == 405:
            error = MethodNotAllowedError(request.method, request.url.path)
    request.app.metrics.count_error(error.code)
    return PageResponse(orjson.dumps(error.to_problem()), error.status, headers, PROBLEM_JSON.decode())
