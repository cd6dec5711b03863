"""Batch answers between workers: the JSON of each item stays a piece of bytes that can be passed on unread.

A part is a length (4 bytes, big endian), a JSON header of that length, and the items' observations and infos one
behind the other. The header holds what is small, and how long each piece is. Failed positions have no pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from verl_agent_env.errors import VerlAgentEnvError, error_from_problem
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

MEDIA_TYPE = b"application/vnd.verl-agent-env.part"

_LENGTH_BYTES = 4


def encode_step_part(results: Sequence[StepAnswer | VerlAgentEnvError]) -> bytes:
    """The steps' results, in order."""
    answers = [result for result in results if isinstance(result, StepAnswer)]
    header = {
        "rewards": [answer.reward for answer in answers],
        "terminated": [answer.terminated for answer in answers],
        "truncated": [answer.truncated for answer in answers],
    }
    return _encode(header, results, [(answer.observation, answer.info) for answer in answers])


def decode_step_part(part: bytes) -> list[StepAnswer | VerlAgentEnvError]:
    """Undo :func:`encode_step_part`.

    Raises:
        ValueError: The bytes are no such part.
    """
    header, pieces = _decode(part)
    columns = zip(pieces, header["rewards"], header["terminated"], header["truncated"], strict=True)
    answers = [
        StepAnswer(observation, reward, terminated, truncated, info)
        for (observation, info), reward, terminated, truncated in columns
    ]
    return _with_errors(header, answers)


def encode_reset_part(results: Sequence[ResetAnswer | VerlAgentEnvError]) -> bytes:
    """The resets' results, in order."""
    answers = [result for result in results if isinstance(result, ResetAnswer)]
    return _encode({}, results, [(answer.observation, answer.info) for answer in answers])


def decode_reset_part(part: bytes) -> list[ResetAnswer | VerlAgentEnvError]:
    """Undo :func:`encode_reset_part`.

    Raises:
        ValueError: The bytes are no such part.
    """
    header, pieces = _decode(part)
    return _with_errors(header, [ResetAnswer(*piece) for piece in pieces])


def encode_created_part(results: Sequence[tuple[str, ResetAnswer] | VerlAgentEnvError]) -> bytes:
    """New environments, in order."""
    created = [result for result in results if isinstance(result, tuple)]
    pieces = [(answer.observation, answer.info) for _, answer in created]
    return _encode({"env_ids": [env_id for env_id, _ in created]}, results, pieces)


def decode_created_part(part: bytes) -> list[tuple[str, ResetAnswer] | VerlAgentEnvError]:
    """Undo :func:`encode_created_part`.

    Raises:
        ValueError: The bytes are no such part.
    """
    header, pieces = _decode(part)
    created = zip(header["env_ids"], pieces, strict=True)
    return _with_errors(header, [(env_id, ResetAnswer(*piece)) for env_id, piece in created])


def encode_closed_part(size: int, errors: Sequence[tuple[int, VerlAgentEnvError]]) -> bytes:
    """What became of ``size`` closings: those at the positions in ``errors`` failed."""
    return orjson.dumps({"size": size, "errors": [[index, error.to_problem()] for index, error in errors]})


def decode_closed_part(part: bytes) -> list[VerlAgentEnvError | None]:
    """An error or ``None`` for each closing."""
    header = orjson.loads(part)
    results: list[VerlAgentEnvError | None] = [None] * header["size"]
    for index, problem in header["errors"]:
        results[index] = error_from_problem(problem)
    return results


def _encode(header: dict[str, Any], results: Sequence[Any], pieces: list[tuple[bytes, bytes]]) -> bytes:
    header["lengths"] = [len(piece) for pair in pieces for piece in pair]
    header["errors"] = [
        [index, result.to_problem()]
        for index, result in enumerate(results)
        if isinstance(result, VerlAgentEnvError)
    ]
    head = orjson.dumps(header)
    return b"".join(
        [len(head).to_bytes(_LENGTH_BYTES, "big"), head, *(piece for pair in pieces for piece in pair)]
    )


def _decode(part: bytes) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
    start = _LENGTH_BYTES + int.from_bytes(part[:_LENGTH_BYTES], "big")
    header = orjson.loads(part[_LENGTH_BYTES:start])
    lengths = header["lengths"]
    if start + sum(lengths) != len(part):
        raise ValueError(f"a part of {len(part)} bytes, where {start + sum(lengths)} were announced")
    pieces: list[bytes] = []
    for length in lengths:
        pieces.append(part[start : start + length])
        start += length
    return header, list(zip(pieces[::2], pieces[1::2], strict=True))


def _with_errors(header: dict[str, Any], answers: list[Any]) -> list[Any]:
    """The answers with the errors set in between, at their positions."""
    results = answers
    for index, problem in header["errors"]:
        results.insert(index, error_from_problem(problem))
    return results
