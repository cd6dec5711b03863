"""Encoding of what callers hand in: as JSON, or a typed error before anything is sent."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from enum import Enum
from numbers import Real
from typing import Any

import numpy as np
import orjson

from verl_agent_env.errors import InvalidRequestError
from verl_agent_env.messages.content import well_formed
from verl_agent_env.messages.forms import plain_value
from verl_agent_env.seeds import MAX_SEED

_MAX_LAYERS = 200
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_KINDS_OF_NUMPY = "biufUO"
"""Truth values, numbers, texts and objects: what a list can hold of an array in any layout."""


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
        try:
            encoded = orjson.dumps(value, default=plain_value)
        except TypeError:
            return orjson.dumps(_clean(value, _MAX_LAYERS), option=_NUMPY)
        if b"null" in encoded:
            # orjson writes it in place of NaN, which means something else.
            _clean(value, _MAX_LAYERS)
        return encoded
    except TypeError as impossible:
        raise _refused(name, str(impossible)) from None


def encode_actions(actions: Sequence[Any]) -> list[bytes]:
    """Encode each of several actions.

    Raises:
        InvalidRequestError: They are no list, or one of them cannot be expressed in JSON.
    """
    if isinstance(actions, str | bytes) or not isinstance(actions, Sequence):
        raise _refused("actions", f"must be a list of actions, not {type(actions).__name__}")
    return [encode_value(action, "actions") for action in actions]


def seed_of(seed: Any) -> int | None:
    """Return a seed as an integer; NumPy's are ones.

    Raises:
        InvalidRequestError: It is none, or out of the range of seeds.
    """
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        raise _refused("seed", f"must be an integer, not {type(seed).__name__}") from None
    if number is not None and not 0 <= number <= MAX_SEED:
        raise _refused("seed", f"must be from 0 to {MAX_SEED}")
    return number


def text_of(text: Any, name: str) -> str:
    """Return a name, of an environment, a run or a split.

    Raises:
        InvalidRequestError: It is no text, or holds half a surrogate pair.
    """
    if not isinstance(text, str) or well_formed(text) != text:
        raise _refused(name, f"must be a text that UTF-8 can express, not {text!r:.80}")
    return text


def seconds_of(seconds: Any, name: str) -> float | None:
    """Return a number of seconds; NumPy's are ones.

    Raises:
        InvalidRequestError: It is none, or not finite.
    """
    if seconds is None:
        return None
    if not isinstance(seconds, Real) or not math.isfinite(seconds):
        raise _refused(name, f"must be a finite number, not {seconds!r:.80}")
    return float(seconds)


def _refused(name: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError([{"loc": [name], "msg": reason}])


def _clean(value: Any, layers: int) -> Any:
    """Return a value as JSON has it; what is left as it is, ``orjson`` writes or refuses.

    Raises:
        TypeError: It is nested too deeply, or holds NaN or an infinity.
    """
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError("holds NaN or an infinity, which JSON has not")
        return value
    if layers == 0:
        raise TypeError("is nested too deeply")
    if isinstance(value, dict):
        return {
            well_formed(key) if isinstance(key, str) else key: _clean(item, layers - 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item, layers - 1) for item in value]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS_OF_NUMPY:
        return _clean(value.tolist(), layers - 1)
    if isinstance(value, Enum):
        return _clean(value.value, layers - 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: _clean(getattr(value, name), layers - 1) for name in names}
    if isinstance(value, bytes) or hasattr(value, "model_dump"):
        return _clean(plain_value(value), layers - 1)
    return value
