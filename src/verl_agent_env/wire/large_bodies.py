"""Reads the bodies of large batches: bit by bit, and the actions in them not before it is their turn.

To parse a body of a hundred thousand actions takes a third of a second, in which nothing else can happen, and many times
its memory. To skip over them takes a tenth of that; each is parsed when it is carried out.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import orjson

from verl_agent_env.errors import (
    ActionTooLargeError,
    BatchTooLargeError,
    BodyTooComplexError,
    BodyTooLargeError,
    InvalidRequestError,
    MalformedBodyError,
)
from verl_agent_env.wire.codec import (
    MAX_BYTES_AT_ONCE,
    MAX_VALUES_AT_ONCE,
    check,
    count_values,
    is_parsed_at_once,
    parse,
    parse_object,
)
from verl_agent_env.wire.schemas import RequestBody

RequestT = TypeVar("RequestT", bound=RequestBody)
Turn = Callable[[], Awaitable[None]]
"""Waits until it is this work's turn to go on."""

MAX_VALUES = 2_000_000
"""Values of a body; a batch of the largest size has fewer in its usual form."""
_PIECE_BYTES = 8 * 1024 * 1024
_ITEMS = 4096
"""What is looked at in one turn: some milliseconds."""
_MAX_SPELLING = 8
_BYTES = 1024 * 1024
"""What is parsed in one turn, unless one item alone is longer."""
_UNREAD = frozenset({"actions"})
"""Columns whose items stay JSON."""

UnreadJson = msgspec.Raw
"""JSON of an item: a view of the body that it came in, which lives as long as any of its items."""


async def decode_batch(
    body: bytes, model: type[RequestT], turn: Turn, max_items: int | None = None
) -> RequestT:
    """Read as :func:`~verl_agent_env.wire.codec.decode`, with turns for others; an action may stay JSON (:func:`read_item`).

    Args:
        body: The body.
        model: Of the request.
        turn: Waited for after every few milliseconds of work.
        max_items: Items of a column, if they were not counted before; more are not made into objects.

    Raises:
        MalformedBodyError, InvalidRequestError: As ``decode``.
        BatchTooLargeError: A column has more than ``max_items``.
        BodyTooComplexError: It has too many values.
        BodyTooLargeError: One of its values is too long to be read at once.
    """
    if is_parsed_at_once(body):
        return check(parse_object(body), model)
    values = 0
    for start in range(0, len(body), _PIECE_BYTES):
        values += count_values(body, start, start + _PIECE_BYTES)
        await turn()
    if values > MAX_VALUES:
        raise BodyTooComplexError(MAX_VALUES)
    fields = _skip(body, _fields_of(model))
    document = {}
    for name in model.model_fields:
        raw = getattr(fields, name)
        if raw is not msgspec.UNSET:
            await turn()
            document[name] = await _read(raw, name in _UNREAD, turn, max_items)
    await turn()
    return check(document, model)


def read_item(item: Any) -> Any:
    """The value of an item of :func:`decode_batch`.

    Raises:
        MalformedBodyError: It is JSON that cannot be read.
    """
    return parse(memoryview(item)) if type(item) is UnreadJson else item


def write_unread(item: Any) -> orjson.Fragment:
    """Write an item unread, for ``orjson.dumps(…, default=write_unread)``.

    Raises:
        TypeError: It is none.
    """
    if type(item) is not UnreadJson:
        raise TypeError(f"{type(item).__name__} cannot be written as JSON")
    return orjson.Fragment(bytes(item))


def require_size(item: UnreadJson, max_action_bytes: int) -> None:
    """Raise when an action cannot but be too large, before it is read: no sign of JSON is more than six times its own.

    Raises:
        ActionTooLargeError: It is.
    """
    size = len(item)
    if size > _MAX_SPELLING * max_action_bytes:
        raise ActionTooLargeError(size, max_action_bytes)


async def _read(written: UnreadJson, stays_json: bool, turn: Turn, max_items: int | None) -> Any:
    """The value of a field; of a long list so many items at a time as are read in one turn."""
    is_list = bytes(memoryview(written)[:1]) == b"["
    if not (is_list and stays_json):
        if len(written) <= MAX_BYTES_AT_ONCE and is_parsed_at_once(bytes(written)):
            return parse(memoryview(written))
        if not is_list:
            raise _too_much_at_once(written)
    items = _skip(written, list[UnreadJson])
    if max_items is not None and len(items) > max_items:
        raise BatchTooLargeError(len(items), max_items)
    if stays_json:
        return items
    read: list[Any] = []
    unread = 0
    for item in items:
        if len(item) > MAX_BYTES_AT_ONCE:
            raise _too_much_at_once(item)
        unread += len(item)
        if unread > _BYTES or len(read) % _ITEMS == 0:
            await turn()
            unread = len(item)
        read.append(parse(memoryview(item)))
    return read


def _too_much_at_once(written: UnreadJson) -> BodyTooComplexError | BodyTooLargeError:
    if len(written) > MAX_BYTES_AT_ONCE:
        return BodyTooLargeError(MAX_BYTES_AT_ONCE)
    return BodyTooComplexError(MAX_VALUES_AT_ONCE)


def _skip(text: bytes | UnreadJson, kind: Any) -> Any:
    """Split a text of JSON into its parts, which stay unread.

    Raises:
        MalformedBodyError: It is no JSON.
        InvalidRequestError: It is not of this kind.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as invalid:
        raise InvalidRequestError([{"loc": [], "msg": str(invalid)}]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as malformed:
        raise MalformedBodyError(str(malformed)) from None


@functools.cache
def _fields_of(model: type[RequestBody]) -> type[msgspec.Struct]:
    """A structure of the model's fields, each of them unread."""
    fields = [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in model.model_fields]
    return msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True)
