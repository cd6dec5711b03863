"""Batch results between workers: the JSON of each item stays a piece of bytes that is copied without parsing it.

A part is a length (4 bytes, big endian), a JSON header of that length, and the concatenated observations and infos of the
items. The header has the small values and the length of each piece. Failed items have no pieces.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import orjson

from verl_agent_env.errors import VerlAgentEnvError, error_from_problem
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep

MEDIA_TYPE = b"application/vnd.verl-agent-env.part"

_LENGTH_BYTES = 4
_MAX_ITEMS = 1 << 24


def encode_step_part(results: Sequence[EncodedStep | VerlAgentEnvError]) -> bytes:
    """Encode the results of steps, in order."""
    errors, answers = _sorted(results)
    header = {
        "rewards": [answer.reward for answer in answers],
        "terminated": [answer.terminated for answer in answers],
        "truncated": [answer.truncated for answer in answers],
    }
    return _encode(header, errors, answers)


def decode_step_part(part: bytes) -> list[EncodedStep | VerlAgentEnvError]:
    """Undo :func:`encode_step_part`.

    Raises:
        ValueError: The bytes are not such a part.
    """
    rows, errors = _decode(part, {"rewards": float, "terminated": bool, "truncated": bool})
    answers = [
        EncodedStep(observation, reward, terminated, truncated, info)
        for reward, terminated, truncated, observation, info in rows
    ]
    return _with_errors(answers, errors)


def encode_reset_part(results: Sequence[EncodedReset | VerlAgentEnvError]) -> bytes:
    """Encode the results of resets, in order."""
    return _encode({}, *_sorted(results))


def decode_reset_part(part: bytes) -> list[EncodedReset | VerlAgentEnvError]:
    """Undo :func:`encode_reset_part`.

    Raises:
        ValueError: The bytes are not such a part.
    """
    rows, errors = _decode(part, {})
    return _with_errors([EncodedReset(*row) for row in rows], errors)


def encode_created_part(results: Sequence[Created | VerlAgentEnvError]) -> bytes:
    """Encode new environments, in order."""
    errors, created = _sorted(results)
    return _encode({"env_ids": [env_id for env_id, _ in created]}, errors, created)


def decode_created_part(part: bytes) -> list[Created | VerlAgentEnvError]:
    """Undo :func:`encode_created_part`.

    Raises:
        ValueError: The bytes are not such a part.
    """
    rows, errors = _decode(part, {"env_ids": str})
    return _with_errors([Created(env_id, EncodedReset(*pieces)) for env_id, *pieces in rows], errors)


def encode_closed_part(results: Sequence[VerlAgentEnvError | None]) -> bytes:
    """Encode the results of closings, in order."""
    return orjson.dumps({"size": len(results), "errors": _problems(results)})


def decode_closed_part(part: bytes) -> list[VerlAgentEnvError | None]:
    """Undo :func:`encode_closed_part`: an error or ``None`` for each closing.

    Raises:
        ValueError: The bytes are not such a part.
    """
    header = orjson.loads(part)
    with _malformed():
        size, errors = header["size"], _errors_of(header)
        if type(size) is not int or not len(errors) <= size <= _MAX_ITEMS:
            raise ValueError(f"a part of {size} closings with {len(errors)} errors")
        return _with_errors([None] * (size - len(errors)), errors)


def encode_run_part(closed: int, slots: Collection[int]) -> bytes:
    """Encode the number of closed environments of a run, and the slots in which none is left."""
    return orjson.dumps({"closed": closed, "slots": sorted(slots)})


def decode_run_part(part: bytes) -> tuple[int, set[int]]:
    """Undo :func:`encode_run_part`.

    Raises:
        ValueError: The bytes are not such a part.
    """
    header = orjson.loads(part)
    with _malformed():
        closed, slots = header["closed"], _column(header["slots"], int)
        if type(closed) is not int or closed < 0:
            raise ValueError(f"a part of {closed} closed environments")
        return closed, set(slots)


def _encode(header: dict[str, Any], errors: list[list[Any]], answers: Sequence[Any]) -> bytes:
    pieces = [piece for answer in answers for piece in (answer.observation, answer.info)]
    header["lengths"] = [*map(len, pieces)]
    header["errors"] = errors
    head = orjson.dumps(header)
    return b"".join([len(head).to_bytes(_LENGTH_BYTES, "big"), head, *pieces])


def _sorted(results: Sequence[Any]) -> tuple[list[list[Any]], Sequence[Any]]:
    """Return the errors among results, encoded, and all other results."""
    errors = _problems(results)
    if not errors:
        return errors, results
    return errors, [result for result in results if not isinstance(result, VerlAgentEnvError)]


def _problems(results: Sequence[Any]) -> list[list[Any]]:
    """Encode the errors among results, each with its position."""
    return [
        [index, result.to_problem()]
        for index, result in enumerate(results)
        if isinstance(result, VerlAgentEnvError)
    ]


def _decode(
    part: bytes, columns: Mapping[str, type]
) -> tuple[list[tuple[Any, ...]], dict[int, VerlAgentEnvError]]:
    """Return a row for each item that succeeded (its columns, observation and info), and the errors."""
    start = _LENGTH_BYTES + int.from_bytes(part[:_LENGTH_BYTES], "big")
    header = orjson.loads(part[_LENGTH_BYTES:start])
    with _malformed():
        values = [_column(header[name], kind) for name, kind in columns.items()]
        pieces = iter(_pieces(part, start, _column(header["lengths"], int)))
        return list(zip(*values, pieces, pieces, strict=True)), _errors_of(header)


def _pieces(part: bytes, start: int, lengths: list[int]) -> list[bytes]:
    if min(lengths, default=0) < 0 or start + sum(lengths) != len(part):
        raise ValueError(f"a part of {len(part)} bytes, where {start + sum(lengths)} were announced")
    ends = list(itertools.accumulate(lengths, initial=start))
    return list(map(part.__getitem__, map(slice, ends, ends[1:])))


def _column(values: Any, kind: type) -> list[Any]:
    if not isinstance(values, list) or not {kind}.issuperset(map(type, values)):
        raise ValueError(f"a part with a column that is no list of {kind.__name__}")
    return values


def _errors_of(header: dict[str, Any]) -> dict[int, VerlAgentEnvError]:
    """Decode the errors, by position."""
    return {index: error_from_problem(problem) for index, problem in header["errors"]}


def _with_errors(answers: list[Any], errors: dict[int, VerlAgentEnvError]) -> list[Any]:
    """Insert the errors into the answers, at their positions."""
    if not errors:
        return answers
    succeeded = iter(answers)
    positions = range(len(answers) + len(errors))
    if not errors.keys() <= set(positions):
        raise ValueError("a part with an error at a position that it does not have")
    return [errors[position] if position in errors else next(succeeded) for position in positions]


@contextlib.contextmanager
def _malformed() -> Iterator[None]:
    """Raise ``ValueError`` for a malformed header, whatever error it causes."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as broken:
        raise ValueError("a part with a header that lacks something") from broken
