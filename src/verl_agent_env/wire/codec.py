"""Encoding and decoding of JSON, with orjson."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import numpy as np
import orjson
from pydantic import ValidationError

from verl_agent_env.errors import (
    BodyTooComplexError,
    BodyTooLargeError,
    InvalidRequestError,
    MalformedBodyError,
)
from verl_agent_env.wire.schemas import RequestBody, StepRequest

RequestT = TypeVar("RequestT", bound=RequestBody)

_MAX_FAULTS = 20
SMALL_BYTES = 256 * 1024
MAX_BYTES_AT_ONCE = 16 * 1024 * 1024
MAX_VALUES_AT_ONCE = 250_000
"""Limits of a text that is parsed at once, which takes some hundredths of a second."""
_COUNTED_BYTES = 64 * 1024
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
"""Options of orjson with which NumPy values and keys that are not text are written."""


def decode(body: bytes, model: type[RequestT]) -> RequestT:
    """Decode and validate the body of a request; an empty body counts as ``{}``.

    Raises:
        MalformedBodyError: The body is not JSON, or not an object.
        BodyTooComplexError, BodyTooLargeError: The body would take too long to parse.
        InvalidRequestError: The object does not match the schema.
    """
    return check(_parse(body), model)


def decode_step(body: bytes) -> tuple[Any, int | None]:
    """Decode action and ``seq`` of a :class:`StepRequest`, without pydantic for the usual forms.

    Raises:
        MalformedBodyError, InvalidRequestError: The errors of :func:`decode`.
    """
    try:
        # As parse_object, without a call.
        document = orjson.loads(body) if len(body) <= SMALL_BYTES else _parse(body)
    except orjson.JSONDecodeError:
        document = parse_object(body)
    if type(document) is dict and "action" in document:
        if len(document) == 1:
            return document["action"], None
        seq = document.get("seq")
        if len(document) == 2 and type(seq) is int and seq >= 0:
            return document["action"], seq
    checked = check(_object(document), StepRequest)
    return checked.action, checked.seq


def is_parsed_at_once(text: bytes) -> bool:
    """Tell whether a JSON text can be parsed within some hundredths of a second."""
    if len(text) <= SMALL_BYTES:
        return True
    return len(text) <= MAX_BYTES_AT_ONCE and count_values(text, 0, len(text)) <= MAX_VALUES_AT_ONCE


def count_values(text: bytes, start: int, end: int) -> int:
    """Estimate the number of values in a part of a JSON text, from above but for one."""
    return sum(count_sign(text, sign, start, end) for sign in b"{[,")


def count_sign(text: bytes, sign: int, start: int, end: int) -> int:
    """Count a byte like ``text.count(sign, start, end)``, in a fraction of the time for long texts."""
    codes = np.frombuffer(text, np.uint8)[start:end]
    # In parts that fit into the processor's cache.
    parts = (codes[first : first + _COUNTED_BYTES] for first in range(0, len(codes), _COUNTED_BYTES))
    return sum(int(np.count_nonzero(part == sign)) for part in parts)


def _parse(body: bytes) -> dict[str, Any]:
    if len(body) > SMALL_BYTES:
        if len(body) > MAX_BYTES_AT_ONCE:
            raise BodyTooLargeError(MAX_BYTES_AT_ONCE)
        if not is_parsed_at_once(body):
            raise BodyTooComplexError(MAX_VALUES_AT_ONCE)
    return parse_object(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a body of any size; an empty body counts as ``{}``.

    Raises:
        MalformedBodyError: The body is not JSON, or not an object.
    """
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as malformed:
        raise parse_error(malformed) from None
    return _object(document)


def _object(document: Any) -> dict[str, Any]:
    if type(document) is not dict:
        raise MalformedBodyError("it is not an object")
    return document


def parse(text: bytes | memoryview) -> Any:
    """Parse JSON.

    Raises:
        MalformedBodyError: The text is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as malformed:
        raise parse_error(malformed) from None


def parse_error(malformed: orjson.JSONDecodeError) -> MalformedBodyError | MemoryError:
    """Return what went wrong: orjson raises the same class where there was no memory to parse in."""
    told = str(malformed)
    return MemoryError(told) if told.startswith("Not enough memory") else MalformedBodyError(told)


def check(document: dict[str, Any], model: type[RequestT]) -> RequestT:
    """Validate a document and return the request.

    Raises:
        InvalidRequestError: The document does not match the schema.
    """
    if len(document) > len(model.model_fields):
        # Otherwise a body with a million fields would cause a million faults.
        unknown = itertools.islice((name for name in document if name not in model.model_fields), _MAX_FAULTS)
        raise InvalidRequestError(
            [{"loc": [_shorten(name)], "msg": "Extra inputs are not permitted"} for name in unknown]
        )
    try:
        return model.model_validate(document)
    except ValidationError as invalid:
        raise InvalidRequestError(faults_of(invalid)) from None


def faults_of(invalid: ValidationError) -> list[dict[str, Any]]:
    """Return the first few faults as problems list them."""
    faults = invalid.errors(include_url=False, include_context=False, include_input=False)
    return [
        {"loc": [_shorten(part) for part in fault["loc"]], "msg": fault["msg"].removeprefix("Value error, ")}
        for fault in faults[:_MAX_FAULTS]
    ]


def _shorten(part: str | int) -> str | int:
    """Shorten a part of a fault's location: the name of a field can be as long as the body."""
    return part if isinstance(part, int) or len(part) <= 64 else part[:63] + "…"


def encode(value: Any) -> bytes:
    """Encode ``value``; NumPy scalars and arrays become numbers and lists.

    Raises:
        TypeError: ``value`` cannot be expressed in JSON.
    """
    try:
        # Twice as fast without the options, which few values need.
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(value, None, OPTIONS)


def encode_kept(value: Any) -> bytes:
    """Encode ``value`` into bytes that stay in memory.

    orjson writes into a buffer of a kilobyte and shrinks it in place, which fragments the heap if the result is kept. A
    copy takes a third of the memory, and less time than growing the heap.
    """
    return b"%b" % encode(value)
