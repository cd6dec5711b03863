"""Bodies of batch answers: columns in request order, and a sparse list of what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

_MAX_ITEM_FAULTS = 3
_NULL = b"null"
_FAILED = StepAnswer(_NULL, None, None, None, _NULL)  # type: ignore[arg-type]
"""What a failed position holds."""


def encode_steps(results: Sequence[StepAnswer | VerlAgentEnvError]) -> bytes:
    """``{observations, rewards, terminations, truncations, infos, errors}``; a failed position holds ``null``."""
    errors = [
        (index, result) for index, result in enumerate(results) if isinstance(result, VerlAgentEnvError)
    ]
    answers: Sequence[Any] = results
    if errors:
        answers = [_FAILED if isinstance(result, VerlAgentEnvError) else result for result in results]
    return (
        b'{"observations":[%b],"rewards":%b,"terminations":%b,"truncations":%b,"infos":[%b],"errors":%b}'
        % (
            b",".join([answer.observation for answer in answers]),
            orjson.dumps([answer.reward for answer in answers]),
            orjson.dumps([answer.terminated for answer in answers]),
            orjson.dumps([answer.truncated for answer in answers]),
            b",".join([answer.info for answer in answers]),
            encode_errors(errors),
        )
    )


def encode_resets(results: Sequence[ResetAnswer | VerlAgentEnvError]) -> bytes:
    """``{observations, infos, errors}``."""
    observations, infos, errors = _split_resets(results)
    return b'{"observations":[%b],"infos":[%b],"errors":%b}' % (observations, infos, errors)


def encode_initialized(results: Sequence[tuple[str, ResetAnswer] | VerlAgentEnvError]) -> bytes:
    """``{env_ids, observations, infos, errors}``."""
    env_ids = [None if isinstance(result, VerlAgentEnvError) else result[0] for result in results]
    resets = [result if isinstance(result, VerlAgentEnvError) else result[1] for result in results]
    observations, infos, errors = _split_resets(resets)
    return b'{"env_ids":%b,"observations":[%b],"infos":[%b],"errors":%b}' % (
        orjson.dumps(env_ids),
        observations,
        infos,
        errors,
    )


def encode_closed(closed: int, errors: Sequence[tuple[int, VerlAgentEnvError]]) -> bytes:
    """``{closed, errors}``: how many are closed now, and which are not."""
    return b'{"closed":%d,"errors":%b}' % (closed, encode_errors(errors))


def encode_errors(errors: Sequence[tuple[int, VerlAgentEnvError]]) -> bytes:
    """``[{index, …problem…}]``."""
    return orjson.dumps([_item_problem(index, error) for index, error in errors])


def _item_problem(index: int, error: VerlAgentEnvError) -> dict[str, Any]:
    problem = {"index": index, **error.to_problem()}
    faults = problem.get("errors")
    if isinstance(faults, list) and len(faults) > _MAX_ITEM_FAULTS:
        # One wrong set of arguments can stand for a hundred thousand items.
        problem["errors"] = faults[:_MAX_ITEM_FAULTS]
    return problem


def _split_resets(results: Sequence[ResetAnswer | VerlAgentEnvError]) -> tuple[bytes, bytes, bytes]:
    observations, infos = [], []
    errors: list[tuple[int, VerlAgentEnvError]] = []
    for index, result in enumerate(results):
        if isinstance(result, ResetAnswer):
            observations.append(result.observation)
            infos.append(result.info)
        else:
            errors.append((index, result))
            observations.append(_NULL)
            infos.append(_NULL)
    return b",".join(observations), b",".join(infos), encode_errors(errors)
