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
    BodyTooComplexError,
    InvalidRequestError,
    MalformedBodyError,
)
from verl_agent_env.wire.codec import (
    MAX_BYTES_AT_ONCE,
    check,
    count_values,
    is_parsed_at_once,
    parse,
    parse_object,
)
from verl_agent_env.wire.requests import Request

RequestT = TypeVar("RequestT", bound=Request)
Turn = Callable[[], Awaitable[None]]
"""Waits until it is this work's turn to go on."""

MAX_VALUES = 2_000_000
"""Values of a body; a batch of the largest size has fewer in its usual form."""
_PIECE_BYTES = 8 * 1024 * 1024
_ITEMS = 4096
"""What is looked at in one turn: some milliseconds."""
_MAX_SPELLING = 8
_UNREAD = frozenset({"actions"})
"""Columns whose items stay JSON."""


class UnreadJson(bytes):
    """JSON of an item, as it came."""

    __slots__ = ()


async def decode_batch(body: bytes, model: type[RequestT], turn: Turn) -> RequestT:
    """As :func:`~verl_agent_env.wire.codec.decode`, with turns for others; an action may be JSON yet (:func:`read_item`).

    Args:
        body: The body.
        model: Of the request.
        turn: Waited for after every few milliseconds of work.

    Raises:
        MalformedBodyError, InvalidRequestError: As ``decode``.
        BodyTooComplexError: It has too many values, or one that is too large.
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
            document[name] = await _read(memoryview(raw), name in _UNREAD, turn)
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


async def _read(written: memoryview, stays_json: bool, turn: Turn) -> Any:
    """The value of a field; of a long list so many items at a time as are read in one turn."""
    text = bytes(written)
    if not stays_json and is_parsed_at_once(text):
        return parse(text)
    if text.lstrip()[:1] != b"[":
        raise BodyTooComplexError(MAX_VALUES)
    items = _skip(text, list[msgspec.Raw])
    read: list[Any] = []
    for start in range(0, len(items), _ITEMS):
        await turn()
        for item in items[start : start + _ITEMS]:
            view = memoryview(item)
            if len(view) > MAX_BYTES_AT_ONCE:
                raise BodyTooComplexError(MAX_VALUES)
            read.append(UnreadJson(view) if stays_json else parse(view))
    return read


def _skip(text: bytes, kind: Any) -> Any:
    """What a text of JSON is made of, its parts unread.

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
def _fields_of(model: type[Request]) -> type[msgspec.Struct]:
    """A structure of the model's fields, each of them unread."""
    fields = [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in model.model_fields]
    return msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True)
