"""The kept episodes of all workers: each is asked for those that are with it alone."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import orjson

from verl_agent_env.engine.episodes import search
from verl_agent_env.engine.episodes.search import EpisodePage, EpisodeQuery
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.http.types import Request, Response, Route
from verl_agent_env.wire.episode_rows import RunSummary
from verl_agent_env.wire.episode_store import EpisodeStore, Scope

logger = logging.getLogger(__name__)

_PREFIX = "/internal/episodes/"
_CALL_S = 10.0

FindPeers = Callable[[Scope], Awaitable[Sequence[str]]]
"""Finds the addresses of those workers whose episodes are not in this worker's store, one for each store."""


class KeptEpisodes:
    """Episodes that are over, wherever in the cluster they are kept.

    A worker that does not answer is left out, and named: what the others have is shown all the same.
    """

    def __init__(self, store: EpisodeStore, peers: Peers, find_peers: FindPeers) -> None:
        self._store = store
        self._peers = peers
        self._find_peers = find_peers

    async def find(self, query: EpisodeQuery) -> tuple[EpisodePage, list[str]]:
        """Find a page of episodes; gives it with the workers that did not answer.

        Raises:
            StoreUnavailableError: The store cannot be read.
        """
        asked = self._ask("find", orjson.dumps(query))
        own, (bodies, silent) = await asyncio.gather(search.find(self._store, query), asked)
        return search.merge_pages([own, *map(EpisodePage.from_json, bodies)], query), silent

    async def sum_up(self, query: EpisodeQuery, *, points: bool) -> tuple[list[RunSummary], list[str]]:
        """Sum up episodes by run; gives the sums with the workers that did not answer.

        Raises:
            StoreUnavailableError: The store cannot be read.
        """
        asked = self._ask("runs", orjson.dumps({"query": query, "points": points}))
        own = search.sum_up(self._store, query, points=points)
        mine, (bodies, silent) = await asyncio.gather(own, asked)
        others = [list(map(search.run_from_fields, orjson.loads(body))) for body in bodies]
        return search.merge_runs([mine, *others]), silent

    async def documents(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return episodes as :meth:`KeptEpisode.to_json` writes them, in order; None for those that are not there.

        Raises:
            StoreUnavailableError: The store cannot be read.
        """
        own = await self._store.documents(ids)
        found = [None if document is None else orjson.loads(document) for document in own]
        missing = [position for position, document in enumerate(found) if document is None]
        if missing:
            bodies, _ = await self._ask("documents", orjson.dumps([ids[position] for position in missing]))
            for body in bodies:
                for position, document in zip(missing, orjson.loads(body), strict=True):
                    found[position] = found[position] or document
        return found

    def routes(self) -> list[Route]:
        """The calls between workers."""
        part = partial(Route, auth_scope="admin", is_part=True, is_long=True)
        return [
            part("POST", f"{_PREFIX}find", self._found, "A worker's part of a list of episodes"),
            part("POST", f"{_PREFIX}runs", self._summed_up, "A worker's part of the sums by run"),
            part("POST", f"{_PREFIX}documents", self._read, "Episodes of a worker"),
        ]

    async def _ask(self, name: str, body: bytes) -> tuple[list[bytes], list[str]]:
        """Ask the other workers; gives their answers and the addresses of those that gave none."""
        addresses = await self._find_peers(self._store.scope)
        answers = await asyncio.gather(*(self._ask_one(address, name, body) for address in addresses))
        silent = [address for address, answer in zip(addresses, answers, strict=True) if answer is None]
        return [answer for answer in answers if answer is not None], silent

    async def _ask_one(self, address: str, name: str, body: bytes) -> bytes | None:
        try:
            return (await self._peers.call(address, "POST", _PREFIX + name, body, timeout_s=_CALL_S)).body
        except VerlAgentEnvError as error:
            logger.warning(
                "worker did not send its kept episodes; leaving them out",
                extra={"address": address, "detail": error.detail},
            )
            return None

    async def _found(self, request: Request) -> Response:
        query = EpisodeQuery(**orjson.loads(request.body))
        return Response((await search.find(self._store, query)).to_json())

    async def _summed_up(self, request: Request) -> Response:
        wanted = orjson.loads(request.body)
        runs = await search.sum_up(self._store, EpisodeQuery(**wanted["query"]), points=wanted["points"])
        return Response(orjson.dumps(list(map(dataclasses.asdict, runs)), None, orjson.OPT_NON_STR_KEYS))

    async def _read(self, request: Request) -> Response:
        documents = await self._store.documents(orjson.loads(request.body))
        return Response(b"[%b]" % b",".join(document or b"null" for document in documents))
