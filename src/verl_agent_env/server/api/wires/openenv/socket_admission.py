"""WebSocket endpoint of OpenEnv."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.api.wires.names import name_in
from verl_agent_env.server.api.wires.openenv.handlers import OPENENV_PREFIX
from verl_agent_env.server.api.wires.openenv.socket import SocketServer
from verl_agent_env.server.http.dispatcher import Dispatcher

_SOCKET, _RPC = "/ws", "/mcp"


class SocketAdmission:
    """Admits WebSockets to the environment that their path names, and refuses all others."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher, sockets: SocketServer) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._sockets = sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path: str = scope["path"]
        is_rpc = path.endswith(_RPC)
        if not path.startswith(OPENENV_PREFIX) or not (is_rpc or path.endswith(_SOCKET)):
            await self._dispatcher.refuse_websocket(scope, receive, send)
            return
        try:
            principal = self._dispatcher.admit_websocket(scope, "run")
            env_name = self._registry.resolve(name_in(path, OPENENV_PREFIX))
        except VerlAgentEnvError as error:
            await self._dispatcher.refuse_websocket(scope, receive, send, error)
            return
        await self._sockets.serve(env_name, principal, scope, receive, send, is_rpc=is_rpc)
