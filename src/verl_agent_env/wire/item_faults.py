"""Batches in which some items are wrong: the others are carried out all the same.

A body that is valid as a whole is never looked at here. Of one that is not, each item of each column is read and checked by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from verl_agent_env.errors import InvalidRequestError, MalformedBodyError
from verl_agent_env.wire.codec import check, faults_of
from verl_agent_env.wire.large_bodies import Turn, decode_batch
from verl_agent_env.wire.schemas import Arguments, EnvId, EnvName, RequestBody, Seed, Seq, TaskRequest

RequestT = TypeVar("RequestT", bound=RequestBody)
Faults = Mapping[int, InvalidRequestError]
"""By position, what is wrong with an item."""

NO_FAULTS: Faults = MappingProxyType({})

_MAX_BYTES = 4 * 1024 * 1024
"""Largest body of which the items are looked at one by one."""
_ITEMS = 512
"""Items that are checked in one turn: some milliseconds."""
_COLUMNS: dict[str, tuple[TypeAdapter[Any], Any]] = {
    "actions": (TypeAdapter(Any), None),
    "env_ids": (TypeAdapter(EnvId), "-"),
    "env_kwargs": (TypeAdapter(Arguments), {}),
    "env_names": (TypeAdapter(EnvName), "-"),
    "options": (TypeAdapter(Arguments | None), None),
    "seeds": (TypeAdapter(Seed | None), None),
    "seqs": (TypeAdapter(Seq | None), None),
    "tasks": (TypeAdapter(TaskRequest | None), None),
}
"""By column, what an item is, and what takes the place of one that is not."""


class _NoNumber:
    """NaN or an infinity, which Python writes where JSON has nothing."""


async def decode_items(
    body: bytes, model: type[RequestT], turn: Turn, max_items: int
) -> tuple[RequestT, Faults]:
    """Decode a client's batch as :func:`~verl_agent_env.wire.large_bodies.decode_batch` does, and find the items that are wrong.

    Args:
        body: The body.
        model: Class of the request.
        turn: Awaited after every few milliseconds of work.
        max_items: Largest number of items of a column.

    Returns:
        The request, in which something valid stands in the place of each wrong item; and the faults of these.

    Raises:
        MalformedBodyError, InvalidRequestError: The body is wrong beside its items, all items are wrong, or it is too large to
            look at each of them.
        BatchTooLargeError, BodyTooComplexError, BodyTooLargeError: As ``decode_batch``.
    """
    try:
        return await decode_batch(body, model, turn, max_items), NO_FAULTS
    except (MalformedBodyError, InvalidRequestError) as refused:
        document = _lenient(body) if len(body) <= _MAX_BYTES else None
        if document is None:
            raise
        columns = {
            name: value for name, value in document.items() if name in _COLUMNS and type(value) is list
        }
        faults = await _faults(columns, turn)
        if not faults or len(faults) >= max(map(len, columns.values())):
            raise refused
    for name, column in columns.items():
        for position in faults:
            if position < len(column):
                column[position] = _COLUMNS[name][1]
    return check(document, model), faults


def _lenient(body: bytes) -> dict[str, Any] | None:
    """Parse JSON that may hold half surrogate pairs, NaN and broken UTF-8; None if it is no JSON all the same."""
    try:
        text = body.decode("utf-8", "surrogateescape")
        document = json.loads(text, parse_constant=lambda _: _NoNumber())
    except (ValueError, RecursionError):
        return None
    return document if type(document) is dict else None


async def _faults(columns: Mapping[str, list[Any]], turn: Turn) -> dict[int, InvalidRequestError]:
    faults: dict[int, InvalidRequestError] = {}
    for name, column in columns.items():
        for position, item in enumerate(column):
            if position % _ITEMS == 0:
                await turn()
            fault = _fault(name, position, item)
            if fault is not None:
                faults.setdefault(position, fault)
    for position, (task, seed) in enumerate(
        zip(columns.get("tasks", ()), columns.get("seeds", ()), strict=False)
    ):
        if task is not None and seed is not None:
            message = "has a seed and a task, which has its own: give either"
            faults.setdefault(position, InvalidRequestError([{"loc": ["tasks", position], "msg": message}]))
    return faults


def _fault(name: str, position: int, item: Any) -> InvalidRequestError | None:
    try:
        orjson.dumps(item)
    except TypeError:
        message = (
            "is no JSON: it holds NaN, an infinity, half a surrogate pair or broken UTF-8, or is too deep"
        )
        return InvalidRequestError([{"loc": [name, position], "msg": message}])
    try:
        _COLUMNS[name][0].validate_python(item, strict=True)
    except ValidationError as invalid:
        return InvalidRequestError(
            [{**fault, "loc": [name, position, *fault["loc"]]} for fault in faults_of(invalid)]
        )
    return None
