"""Calls the API's operations within the process: the one way from another protocol to the environments.

An operation is allowed, routed to the environment's owner, and made durable exactly as a request of its own would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from verl_agent_env.engine import AwaitableOrValue, await_maybe
from verl_agent_env.errors import InsufficientScopeError, RouteNotFoundError
from verl_agent_env.server.http.auth import current_principal
from verl_agent_env.server.http.dispatcher import require_seen, start
from verl_agent_env.server.http.route_table import RouteTable
from verl_agent_env.server.http.tokens import Principal
from verl_agent_env.server.http.types import JSON, Request, Response, Route

_NO_HEADERS: Mapping[bytes, bytes] = {}


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the API that was found by its path, to be called any number of times."""

    route: Route
    env_id: str
    path: str
    query: bytes

    def start(
        self,
        encoded: bytes,
        principal: Principal,
        *,
        env_id: str = "",
        headers: Mapping[bytes, bytes] = _NO_HEADERS,
    ) -> AwaitableOrValue[Response]:
        """Call it with a body that is JSON already; gives its response, or what to wait for.

        Args:
            encoded: The body.
            principal: On whose behalf.
            env_id: As :meth:`Operations.call` has it.
            headers: As of a request.

        Raises:
            VerlAgentEnvError: As the operation's.
        """
        route, env_id = self.route, self.env_id or env_id
        if route.auth_scope and route.auth_scope not in principal.scopes:
            raise InsufficientScopeError(route.auth_scope)
        require_seen(principal, env_id)
        return start(route, Request(env_id, encoded, self.query, headers, principal, path=self.path))


class Operations:
    """The operations of an API."""

    def __init__(self, routes: RouteTable, new_env_id: Callable[[str], str]) -> None:
        """Offer the operations of these routes.

        Args:
            routes: Of the API.
            new_env_id: Makes the id of a new environment, with the tag of its holder, at this worker if it takes any.
        """
        self._routes = routes
        self._new_env_id = new_env_id

    def new_env_id(self, principal: Principal) -> str:
        """Choose the id of an environment that is yet to be made, near the connection that asks for it."""
        return self._new_env_id(principal.tag)

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        principal: Principal | None = None,
        env_id: str = "",
        headers: Mapping[bytes, bytes] = _NO_HEADERS,
    ) -> Any:
        """Call an operation.

        Args:
            method: As of a request.
            target: Path and query.
            body: What is JSON in a request's body; none if not given.
            principal: On whose behalf; that of the request at work if not given.
            env_id: Where the operation makes an environment, its id, of :meth:`new_env_id`: made again under one id, it is
                answered as it was.
            headers: As of a request.

        Returns:
            The value of the answer's JSON, or its text if it is no JSON.

        Raises:
            VerlAgentEnvError: As the operation's.
        """
        encoded = b"" if body is None else orjson.dumps(body)
        response = await await_maybe(
            self.start(method, target, encoded, principal=principal, env_id=env_id, headers=headers)
        )
        body_text = bytes(response.body)
        return orjson.loads(body_text) if response.media_type.startswith(JSON) else body_text.decode()

    def start(
        self,
        method: str,
        target: str,
        encoded: bytes,
        *,
        principal: Principal | None = None,
        env_id: str = "",
        headers: Mapping[bytes, bytes] = _NO_HEADERS,
    ) -> AwaitableOrValue[Response]:
        """Call an operation as :meth:`call` does, with a body that is JSON already; gives its response, or what to wait for.

        Raises:
            VerlAgentEnvError: As the operation's.
        """
        principal = principal or current_principal.get()
        return self.find(method, target).start(encoded, principal, env_id=env_id, headers=headers)

    def find(self, method: str, target: str) -> Operation:
        """Find an operation.

        Args:
            method: As of a request.
            target: Path and query.

        Raises:
            RouteNotFoundError: There is none.
        """
        path, _, query = target.partition("?")
        found = self._routes.match(path)
        route = found[0].get(method) if found is not None else None
        if found is None or route is None:
            raise RouteNotFoundError(path)
        return Operation(route, found[1], path, query.encode())
