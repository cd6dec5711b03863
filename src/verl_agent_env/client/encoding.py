"""Encoding of what callers hand in: as JSON, or a typed error before anything is sent."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from verl_agent_env.errors import InvalidRequestError
from verl_agent_env.messages.content import well_formed
from verl_agent_env.messages.forms import plain, plain_value

_MAX_LAYERS = 200
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def encode_value(value: Any, name: str) -> bytes:
    """Encode an action, options or keyword arguments.

    SDKs' objects become dictionaries, values of NumPy numbers and lists; half surrogate pairs become question marks, as where text
    is read in process.

    Args:
        value: What the caller gave.
        name: What it is, for the error.

    Raises:
        InvalidRequestError: It cannot be expressed in JSON.
    """
    try:
        encoded = orjson.dumps(value, default=plain_value)
    except TypeError:
        try:
            encoded = orjson.dumps(_clean(value, _MAX_LAYERS), option=_NUMPY)
        except TypeError as impossible:
            raise InvalidRequestError([{"loc": [name], "msg": str(impossible)}]) from None
    if b"null" in encoded and _holds_no_number(value, _MAX_LAYERS):
        # orjson writes null in its place, which means something else.
        raise InvalidRequestError([{"loc": [name], "msg": "holds NaN or an infinity, which JSON has not"}])
    return encoded


def encode_actions(actions: Sequence[Any]) -> list[bytes]:
    """Encode each of several actions.

    Raises:
        InvalidRequestError: They are no list, or one of them cannot be expressed in JSON.
    """
    if isinstance(actions, str | bytes) or not isinstance(actions, Sequence):
        raise InvalidRequestError(
            [{"loc": ["actions"], "msg": f"must be a list of actions, not {type(actions).__name__}"}]
        )
    return [encode_value(action, "actions") for action in actions]


def seed_of(seed: Any) -> int | None:
    """Return a seed as an integer; NumPy's are ones.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        return None if seed is None else operator.index(seed)
    except TypeError:
        raise InvalidRequestError(
            [{"loc": ["seed"], "msg": f"must be an integer, not {type(seed).__name__}"}]
        ) from None


def _clean(value: Any, layers: int) -> Any:
    if layers == 0:
        raise TypeError("is nested too deeply")
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {_clean(key, 1): _clean(item, layers - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, layers - 1) for item in value]
    if isinstance(value, bytes) or hasattr(value, "model_dump"):
        return _clean(plain_value(value), layers - 1)
    return value


def _holds_no_number(value: Any, layers: int) -> bool:
    """Tell whether a value holds NaN or an infinity."""
    if value is None or isinstance(value, str | int):
        return False
    if isinstance(value, float):
        return not math.isfinite(value)
    value = plain(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return layers > 0 and any(_holds_no_number(item, layers - 1) for item in value)
    if isinstance(value, np.ndarray | np.generic) and np.issubdtype(value.dtype, np.floating):
        return not bool(np.isfinite(value).all())
    return False
