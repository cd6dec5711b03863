"""A verb: everything about one kind of call on environments, however many there are and wherever they live."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from verl_agent_env.engine import CreateRequest, Host
from verl_agent_env.engine.execution.budget import WHOLE_ROOM, AnswerRoom
from verl_agent_env.engine.host.batches import BatchItems, Closed, OnHost
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.http.types import Handler
from verl_agent_env.wire.large_bodies import Turn, decode_batch
from verl_agent_env.wire.pieces import Body
from verl_agent_env.wire.schemas import RequestBody, WithOperations

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb(Generic[T]):
    """One kind of call, as far as batches and their parts at other workers need it.

    Every verb may be sent again: its items are recognized by the ids of what they make, by ``operations``, or they do no
    harm twice.
    """

    name: str
    """Last part of its paths."""
    part: type[RequestBody]
    """Body of a part of a batch, at another worker."""
    items: Callable[[Any, Turn], Awaitable[BatchItems]]
    """Reads the columns of a body: that of a part, or that of a client's batch."""
    columns: Callable[[BatchItems], dict[str, Any]]
    """Undoes ``items``: makes the body of a part, without the operations."""
    on_host: OnHost[T]
    """Carries out the items that live on this worker."""
    encode_part: Callable[[Sequence[T | VerlAgentEnvError]], bytes]
    decode_part: Callable[[bytes], Sequence[T | VerlAgentEnvError]]
    """Carry results from one worker to another."""
    encode: Callable[[Sequence[T | VerlAgentEnvError], Turn], Awaitable[Body]]
    """Makes the response to a batch."""
    operations: Callable[[bytes, BatchItems], Sequence[bytes] | None] = lambda *_: None
    """Ids under which the items of one request are recognized when they come again; None where they need none."""
    makes_environments: bool = False
    """Whether items without an id are for any worker."""

    async def read_part(self, body: bytes, turn: Turn) -> BatchItems:
        """Read the body of a part.

        Raises:
            MalformedBodyError, InvalidRequestError: It is none.
        """
        wanted = await decode_batch(body, self.part, turn)
        items = await self.items(wanted, turn)
        if isinstance(wanted, WithOperations):
            return dataclasses.replace(items, operations=_read(wanted.operations, len(items)))
        return items

    def write_part(self, items: BatchItems) -> dict[str, Any]:
        """Undo :meth:`read_part`; what comes is written as JSON."""
        body = self.columns(items)
        if issubclass(self.part, WithOperations):
            ids = shared_or_each(items.operations)
            body["operations"] = (
                ids.decode() if isinstance(ids, bytes) else ids and [operation.decode() for operation in ids]
            )
        return body


@dataclass(frozen=True, slots=True)
class Documentation:
    """Part of the OpenAPI document of a route."""

    summary: str
    response_model: type[BaseModel]
    errors: tuple[type[VerlAgentEnvError], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentVerb(Verb[T]):
    """A verb on environments that are there: alone at ``/api/environment/{env_id}/name``, in batches at ``/api/batch/name``."""

    single: Callable[[Host], Handler]
    """Makes the handler of requests for one environment."""
    single_request: type[RequestBody] | None
    """Body of such a request."""
    batch_request: type[RequestBody]
    """Body of a client's batch, with ``env_ids``."""
    one: Documentation
    many: Documentation


class BatchRunner(Protocol):
    """Executor of batches: the host of this worker, or many workers."""

    async def run(
        self, verb: Verb[T], items: BatchItems, room: AnswerRoom = WHOLE_ROOM
    ) -> list[T | VerlAgentEnvError]:
        """Carry out a verb for each item; results in order, an error in place of what failed."""

    async def close_run(self, run_id: str, tag: str | None = None) -> Closed:
        """Close all environments of a run; with a ``tag``, those of its holder."""

    def least_share(self, requests: Sequence[CreateRequest]) -> int:
        """Give the least number of these new environments that one of many workers gets, once their kinds are loaded."""


def shared_or_each(values: Sequence[T] | None) -> T | Sequence[T] | None:
    """Write a column; a value that all items share is sent once."""
    return values[0] if values and all(value is values[0] for value in values) else values


def _read(written: str | Sequence[str] | None, size: int) -> list[bytes] | None:
    if isinstance(written, str):
        # The same object for all: instances keep it.
        return [written.encode()] * size
    return None if written is None else [operation.encode() for operation in written]
