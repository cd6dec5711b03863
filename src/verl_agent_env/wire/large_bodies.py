"""Bodies of large batches: parsed in slices, each action only when it is carried out.

Parsing a body of a hundred thousand actions at once would block the event loop for a third of a second and take many times
the body's memory. Skipping over the actions takes a tenth of that.
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
"""Lets others run, and returns when this work may continue."""

MAX_VALUES = 2_000_000
"""Largest number of values in a body; a batch of the largest size has fewer in its usual form."""
_PIECE_BYTES = 8 * 1024 * 1024
_ITEMS = 4096
"""Items that are processed in one slice: some milliseconds."""
_MAX_SPELLING = 8
_BYTES = 1024 * 1024
"""Bytes that are parsed in one slice, unless a single item is longer."""
_UNREAD = frozenset({"actions"})
"""Columns whose items are not parsed."""

UnreadJson = msgspec.Raw
"""An unparsed item: a view of the body, which stays in memory as long as any of its items."""


async def decode_batch(
    body: bytes, model: type[RequestT], turn: Turn, max_items: int | None = None
) -> RequestT:
    """Decode like :func:`~verl_agent_env.wire.codec.decode`, in slices; :func:`read_item` parses the actions later.

    Args:
        body: The body.
        model: Class of the request.
        turn: Awaited after every few milliseconds of work.
        max_items: Largest number of items of a column, if they were not counted before.

    Raises:
        MalformedBodyError, InvalidRequestError: The errors of ``decode``.
        BatchTooLargeError: A column has more than ``max_items``.
        BodyTooComplexError: The body has too many values.
        BodyTooLargeError: A value is too long to be parsed at once.
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
    """Parse an item of :func:`decode_batch`, if it is not parsed yet.

    Raises:
        MalformedBodyError: The item is not JSON.
    """
    return parse(memoryview(item)) if type(item) is UnreadJson else item


def write_unread(item: Any) -> orjson.Fragment:
    """Write an unparsed item as it is, for ``orjson.dumps(…, default=write_unread)``.

    Raises:
        TypeError: It is something else.
    """
    if type(item) is not UnreadJson:
        raise TypeError(f"{type(item).__name__} cannot be written as JSON")
    return orjson.Fragment(bytes(item))


def require_size(item: UnreadJson, max_action_bytes: int) -> None:
    """Refuse an unparsed action that must be too large: an escape in JSON has at most six times the bytes of its character.

    Raises:
        ActionTooLargeError: The action is too large.
    """
    size = len(item)
    if size > _MAX_SPELLING * max_action_bytes:
        raise ActionTooLargeError(size, max_action_bytes)


async def _read(written: UnreadJson, stays_json: bool, turn: Turn, max_items: int | None) -> Any:
    """Parse the value of a field; a long list in slices."""
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
    """Split a JSON text into its parts without parsing them.

    Raises:
        MalformedBodyError: The text is not JSON.
        InvalidRequestError: The text is of another kind.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as invalid:
        raise InvalidRequestError([{"loc": [], "msg": str(invalid)}]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as malformed:
        raise MalformedBodyError(str(malformed)) from None


@functools.cache
def _fields_of(model: type[RequestBody]) -> type[msgspec.Struct]:
    """Return a structure of the model's fields, which are not parsed."""
    fields = [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in model.model_fields]
    return msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True)
