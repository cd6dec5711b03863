"""Has requests handled by the worker that owns their slot: here if it is this one, else forwarded once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Coroutine
from typing import Any
from urllib.parse import quote

import msgspec

from verl_agent_env.engine import AwaitableOrValue, await_maybe
from verl_agent_env.errors import EnvironmentNotFoundError, MovedError, VerlAgentEnvError
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.http.headers import HOP_HEADER, KEY_HEADER, PRINCIPAL_HEADER
from verl_agent_env.server.http.idempotency import name_of_key, slot_of_key
from verl_agent_env.server.http.types import Handler, Request, Response, Route
from verl_agent_env.types import slot_of


class Forwarder:
    """Gives each route's requests to whichever worker owns them."""

    def __init__(self, router: Router, peers: Peers) -> None:
        """Forward by ``router``.

        Args:
            router: Finds owners.
            peers: The other workers.
        """
        self.forwarded: Counter[str] = Counter()
        """Requests sent on to another worker, by route."""
        self._router = router
        self._owns = router.table.owns
        self._peers = peers

    def route_to_owner(self, route: Route) -> Route:
        """Return the route with a handler that has each request handled by its owner."""
        by_owner = {"environment": self._by_environment, "key": self._by_key}
        route_by = by_owner.get(route.owned_by)
        return route if route_by is None else route_by(route)

    def _by_environment(self, route: Route) -> Route:
        handle, owns = route.handler, self._owns

        def local_or_forward(request: Request) -> AwaitableOrValue[Response]:
            request.may_be_sent_on = True
            if owns(slot_of(request.env_id)):
                return handle(request)
            return self._at_owner(slot_of(request.env_id), route, request, handle)

        def forward(request: Request) -> Coroutine[Any, Any, Response]:
            # Another worker took the slot meanwhile: nothing happened here.
            return self._at_owner(slot_of(request.env_id), route, request, handle, has_moved=True)

        return dataclasses.replace(route, handler=local_or_forward, at_owner=forward)

    def _by_key(self, route: Route) -> Route:
        """Repeated under one ``Idempotency-Key``, a request meets one worker; without a key any will do."""
        handle = route.handler

        def local_or_forward(request: Request) -> AwaitableOrValue[Response]:
            name = name_of_key(request)
            if name is None or self._owns(slot := slot_of_key(name, self._router.table.num_slots)):
                return handle(request)
            # Who owns the slot does not see the token that the key belongs to, and gets its name instead.
            headers = {**request.headers, KEY_HEADER: name.encode()}
            named = msgspec.structs.replace(request, headers=headers)
            return self._at_owner(slot, route, named, lambda _: handle(request))

        return dataclasses.replace(route, handler=local_or_forward)

    async def _at_owner(
        self, slot: int, route: Route, request: Request, handle: Handler, *, has_moved: bool = False
    ) -> Response:
        """Have the owner of ``slot`` handle the request.

        Args:
            slot: The slot.
            route: Of the request.
            request: The request.
            handle: Handles it here.
            has_moved: Whether this worker had the request already, until it lost the slot.

        Raises:
            MovedError: Another worker has forwarded it here, and the slot is not this worker's.
        """
        if HOP_HEADER in request.headers:
            raise MovedError(slot)
        if slot >= self._router.table.num_slots:
            # The id of another cluster.
            raise EnvironmentNotFoundError(request.env_id)

        async def send(address: str, _: list[int]) -> list[Response]:
            if address == self._router.table.address:
                return [await await_maybe(handle(request))]
            return [await self._forward(address, route, request)]

        (result,) = await self._router.until_owned([slot], send, has_moved=has_moved)
        if isinstance(result, VerlAgentEnvError):
            raise result
        response: Response = result
        return response

    async def _forward(self, address: str, route: Route, request: Request) -> Response:
        self.forwarded[route.path] += 1
        request.operation()
        path = route.path.replace("{env_id}", quote(request.env_id, safe=""))
        if request.query:
            path = f"{path}?{request.query.decode('latin-1')}"
        # Whatever a client wrote there itself is gone.
        headers = {**request.headers, PRINCIPAL_HEADER: request.principal.to_text().encode()}
        answer = await self._peers.call(address, route.method, path, request.body, headers)
        return Response(answer.body, answer.media_type)
