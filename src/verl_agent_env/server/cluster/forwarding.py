"""Single calls go to the worker that owns the environment's slot: here if it is this one, else forwarded once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.errors import MovedError, SequenceGapError, VerlAgentEnvError, WorkerUnreachableError
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.cluster.router import PAUSE_S, OwnerSearch, no_owner_error
from verl_agent_env.server.http.headers import HOP_HEADER, KEY_HEADER, OPERATION_HEADER, PRINCIPAL_HEADER
from verl_agent_env.server.http.idempotency import name_of_key, slot_of_key
from verl_agent_env.server.http.types import Handler, Request, Response, Route
from verl_agent_env.types import slot_of
from verl_agent_env.wire.operations import call_of, new_call
from verl_agent_env.wire.pieces import Body


class Forwarder:
    """Gives the routes of one environment to whichever worker owns it."""

    def __init__(self, table: SlotTable, peers: Peers, refresh: Callable[[], Awaitable[None]]) -> None:
        """A forwarder that asks ``table`` who owns a slot.

        Args:
            table: Where every slot lives.
            peers: The other workers.
            refresh: Brings the table up to date after a worker said that it is not.
        """
        self.forwarded: Counter[str] = Counter()
        """Calls sent on to another worker, by route."""
        self._table = table
        self._peers = peers
        self._refresh = refresh

    def pin(self, route: Route) -> Route:
        """The route of an environment, carried out by its owner."""
        handle = route.handler

        async def here_or_there(request: Request) -> Body | Response:
            slot = slot_of(request.env_id)
            # From the first try on: one that was written may be refused all the same, when the slot has moved before the
            # answer to the write came. And in the form in which it reaches any worker unchanged.
            operation = call_of(request.headers.get(OPERATION_HEADER)) or new_call()
            request.headers = {**request.headers, OPERATION_HEADER: operation}
            if self._table.owns(slot):
                try:
                    return await handle(request)
                except MovedError:
                    # Another worker took the slot meanwhile: nothing happened here.
                    return await self._at_owner(slot, route, request, handle, has_moved=True)
            return await self._at_owner(slot, route, request, handle)

        return dataclasses.replace(route, handler=here_or_there)

    def pin_to_key(self, route: Route) -> Route:
        """The route of a call that makes environments: repeated under one ``Idempotency-Key``, it meets one worker.

        Without a key any worker will do.
        """
        handle = route.handler

        async def here_or_there(request: Request) -> Body | Response:
            name = name_of_key(request)
            if name is not None:
                slot = slot_of_key(name)
                if not self._table.owns(slot):
                    # Who owns the slot does not see the token that the key belongs to, and is told the name instead.
                    headers = {**request.headers, KEY_HEADER: name.encode()}
                    named = dataclasses.replace(request, headers=headers)
                    return await self._at_owner(slot, route, named, lambda _: handle(request))
            return await handle(request)

        return dataclasses.replace(route, handler=here_or_there)

    async def _at_owner(
        self, slot: int, route: Route, request: Request, handle: Handler, *, has_moved: bool = False
    ) -> Body | Response:
        """Have the owner of ``slot`` carry out the call, whoever that turns out to be until patience ends.

        Args:
            slot: The slot.
            route: Of the call.
            request: The request.
            handle: Carries it out here.
            has_moved: Whether this worker had the call already, until it lost the slot.
        """

        def owner() -> str | None:
            # A slot of this worker's own whose lease is over is nobody's at present.
            address = self._table.address_of(slot)
            return None if address == self._table.address and not self._table.owns(slot) else address

        if HOP_HEADER in request.headers:
            raise MovedError(slot)
        search = OwnerSearch.begin(has_moved=has_moved)
        while True:
            address = owner()
            error: VerlAgentEnvError = no_owner_error()
            search = search.sent()
            if address is not None:
                try:
                    if address == self._table.address:
                        return await handle(request)
                    return await self._table.while_at(address, (slot,), self._send(address, route, request))
                except MovedError as moved:
                    # Who refuses has an older map than this worker, or a newer one: both look again.
                    search = search.after(moved)
                except WorkerUnreachableError as unreachable:
                    error = unreachable
                    search = search.after(unreachable, self._peers.heard_at(address))
                except SequenceGapError as gap:
                    if not search.may_pass(gap):
                        raise
                    error = gap
            if search.is_over:
                raise error
            await self._refresh()
            if owner() in (address, None):
                await self._table.wait_for_change(PAUSE_S)

    async def _send(self, address: str, route: Route, request: Request) -> Response:
        self.forwarded[route.path] += 1
        path = route.path.replace("{env_id}", quote(request.env_id, safe=""))
        if request.query:
            path = f"{path}?{request.query.decode('latin-1')}"
        # Whatever a client wrote there itself is gone.
        headers = {**request.headers, PRINCIPAL_HEADER: request.principal.to_text().encode()}
        answer = await self._peers.call(address, route.method, path, request.body, headers)
        return Response(answer.body, answer.media_type)
