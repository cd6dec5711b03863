"""Files of the operator: JSON with names for what environments may use, and references to variables for its secrets.

A client of the HTTP API names an entry and cannot choose what is behind it. Values may refer to variables, ``${TOKEN}`` or
``${PORT:-8080}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class OperatorFileError(ValueError):
    """The operator's file cannot be used; the message names the place, and holds no value of the file."""


def read_entries(path: Path, key: str) -> dict[str, Any]:
    """Read the object ``key`` of a JSON file: entries by name.

    Raises:
        OperatorFileError: The file cannot be read, or is not of this form.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as unreadable:
        raise OperatorFileError(f"{path} cannot be read: {unreadable.strerror}") from None
    except orjson.JSONDecodeError:
        # The decoder's message may hold a part of the file.
        raise OperatorFileError(f"{path} is not JSON") from None
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise OperatorFileError(f'{path} has no object "{key}"')
    return found


def filled(value: Any, variables: Mapping[str, str], place: str, expanded: list[str]) -> Any:
    """Replace the references to variables in ``value``; the values of the variables are added to ``expanded``.

    Raises:
        OperatorFileError: A variable is not set.
    """
    if isinstance(value, dict):
        return {key: filled(inner, variables, f"{place}.{key}", expanded) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, variables, place, expanded) for inner in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        found = variables.get(match[1]) or match[2]
        if found is None:
            raise OperatorFileError(f"{place} refers to the variable {match[1]}, which is not set")
        expanded.append(found)
        return found

    return _REFERENCE.sub(fill, value)


def shown_faults(faults: list[Any]) -> str:
    """Write the first faults of a validation as one sentence, without the values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'it'}: {fault['msg']}" for fault in faults[:5]
    )
