"""Has requests handled by the worker that owns their slot: here if it is this one, else forwarded once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from urllib.parse import quote

from verl_agent_env.errors import MovedError, VerlAgentEnvError
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.http.headers import HOP_HEADER, KEY_HEADER, OPERATION_HEADER, PRINCIPAL_HEADER
from verl_agent_env.server.http.idempotency import name_of_key, slot_of_key
from verl_agent_env.server.http.types import Handler, Request, Response, Route
from verl_agent_env.types import slot_of
from verl_agent_env.wire.operations import call_of, new_call
from verl_agent_env.wire.pieces import Body


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
        handlers = {"environment": self._by_environment, "key": self._by_key}
        make = handlers.get(route.owned_by)
        return route if make is None else dataclasses.replace(route, handler=make(route))

    def _by_environment(self, route: Route) -> Handler:
        handle = route.handler

        async def local_or_forward(request: Request) -> Body | Response:
            slot = slot_of(request.env_id)
            # From the first try on: one that was written may be refused all the same, when the slot has moved before the
            # answer to the write came. And in the form in which it reaches any worker unchanged.
            operation = call_of(request.headers.get(OPERATION_HEADER)) or new_call()
            request.headers = {**request.headers, OPERATION_HEADER: operation}
            if not self._owns(slot):
                return await self._at_owner(slot, route, request, handle)
            try:
                return await handle(request)
            except MovedError:
                # Another worker took the slot meanwhile: nothing happened here.
                return await self._at_owner(slot, route, request, handle, has_moved=True)

        return local_or_forward

    def _by_key(self, route: Route) -> Handler:
        """Repeated under one ``Idempotency-Key``, a request meets one worker; without a key any will do."""
        handle = route.handler

        async def local_or_forward(request: Request) -> Body | Response:
            name = name_of_key(request)
            if name is None or self._owns(slot := slot_of_key(name)):
                return await handle(request)
            # Who owns the slot does not see the token that the key belongs to, and gets its name instead.
            headers = {**request.headers, KEY_HEADER: name.encode()}
            named = dataclasses.replace(request, headers=headers)
            return await self._at_owner(slot, route, named, lambda _: handle(request))

        return local_or_forward

    async def _at_owner(
        self, slot: int, route: Route, request: Request, handle: Handler, *, has_moved: bool = False
    ) -> Body | Response:
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

        async def send(address: str, _: list[int]) -> list[Body | Response]:
            if address == self._router.table.address:
                return [await handle(request)]
            return [await self._forward(address, route, request)]

        (result,) = await self._router.until_owned([slot], send, has_moved=has_moved)
        if isinstance(result, VerlAgentEnvError):
            raise result
        answer: Body | Response = result
        return answer

    async def _forward(self, address: str, route: Route, request: Request) -> Response:
        self.forwarded[route.path] += 1
        path = route.path.replace("{env_id}", quote(request.env_id, safe=""))
        if request.query:
            path = f"{path}?{request.query.decode('latin-1')}"
        # Whatever a client wrote there itself is gone.
        headers = {**request.headers, PRINCIPAL_HEADER: request.principal.to_text().encode()}
        answer = await self._peers.call(address, route.method, path, request.body, headers)
        return Response(answer.body, answer.media_type)
