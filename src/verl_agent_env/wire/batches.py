"""Bodies of batch responses: columns in request order, and a list of the failed items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import orjson

from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.wire.pieces import MAX_JOINED_BYTES, Body, Pieces
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep

ResultT = TypeVar("ResultT")

_MAX_ITEM_FAULTS = 3
_NULL = b"null"
_FAILED = EncodedStep(_NULL, None, None, None, _NULL)  # type: ignore[arg-type]
"""Values of a failed item."""


_ITEMS = 4096
"""Items that are encoded in one slice: some milliseconds."""

_JOINED_BYTES = 4 * 1024 * 1024
"""Bytes of one column that are joined at once: some milliseconds."""

Columns = list[bytes | list[bytes]]
"""Content of each column without its brackets, or its values, to be joined with commas."""


class BatchEncoder(Generic[ResultT]):
    """Encodes responses to one kind of batch: ``encoder(results)`` at once, :meth:`in_turns` in slices."""

    def __init__(
        self, names: Sequence[str], columns: Callable[[Sequence[ResultT | VerlAgentEnvError], int], Columns]
    ) -> None:
        """Create an encoder.

        Args:
            names: Names of the columns.
            columns: Returns the columns of a slice of the results, given the slice and the position of its first item.
        """
        self._heads = [b'"%b":[' % name.encode() for name in names]
        self._columns = columns

    def __call__(self, results: Sequence[ResultT | VerlAgentEnvError]) -> bytes:
        """Encode results."""
        return self._body([self._columns(results, 0)])

    async def in_turns(
        self, results: Sequence[ResultT | VerlAgentEnvError], turn: Callable[[], Awaitable[None]]
    ) -> Body:
        """Encode results in slices of a few milliseconds, with ``turn`` awaited in between; in pieces if the body is long."""
        columns = []
        for first in range(0, len(results), _ITEMS) or (0,):
            if first:
                await turn()
            columns.append(self._columns(results[first : first + _ITEMS], first))
        written = self._written(columns)
        if sum(map(len, written)) <= MAX_JOINED_BYTES:
            return b"".join(written)
        return await Pieces.gather(written, turn)

    def _body(self, columns: Sequence[Columns]) -> bytes:
        # Joined once, because a response can be large.
        return b"".join(self._written(columns))

    def _written(self, columns: Sequence[Columns]) -> list[bytes]:
        written = [b"{"]
        for head, column in zip(self._heads, zip(*columns, strict=True), strict=True):
            written.append(head)
            for values in column:
                if isinstance(values, bytes):
                    written += (values, b",") if values else ()
                elif sum(map(len, values)) <= _JOINED_BYTES:
                    written += (b",".join(values), b",") if values else ()
                else:
                    # Long values are not copied, short ones a few at a time.
                    for value in values:
                        written += (value, b",")
            # The last comma becomes the end of the column.
            written[-1 if written[-1] == b"," else len(written) :] = [b"],"]
        written[-1] = b"]}"
        return written


def _step_columns(results: Sequence[EncodedStep | VerlAgentEnvError], first: int) -> Columns:
    errors = [
        (index, result)
        for index, result in enumerate(results, first)
        if isinstance(result, VerlAgentEnvError)
    ]
    answers: Sequence[Any] = results
    if errors:
        answers = [_FAILED if isinstance(result, VerlAgentEnvError) else result for result in results]
    return [
        [answer.observation for answer in answers],
        orjson.dumps([answer.reward for answer in answers])[1:-1],
        orjson.dumps([answer.terminated for answer in answers])[1:-1],
        orjson.dumps([answer.truncated for answer in answers])[1:-1],
        [answer.info for answer in answers],
        encode_errors(errors)[1:-1],
    ]


def _reset_columns(results: Sequence[EncodedReset | VerlAgentEnvError], first: int) -> Columns:
    observations, infos = [], []
    errors: list[tuple[int, VerlAgentEnvError]] = []
    for index, result in enumerate(results, first):
        if isinstance(result, EncodedReset):
            observations.append(result.observation)
            infos.append(result.info)
        else:
            errors.append((index, result))
            observations.append(_NULL)
            infos.append(_NULL)
    return [observations, infos, encode_errors(errors)[1:-1]]


def _created_columns(results: Sequence[Created | VerlAgentEnvError], first: int) -> Columns:
    env_ids = [None if isinstance(result, VerlAgentEnvError) else result[0] for result in results]
    resets = [result if isinstance(result, VerlAgentEnvError) else result[1] for result in results]
    return [orjson.dumps(env_ids)[1:-1], *_reset_columns(resets, first)]


encode_steps: BatchEncoder[EncodedStep] = BatchEncoder(
    ("observations", "rewards", "terminations", "truncations", "infos", "errors"), _step_columns
)
"""``{observations, rewards, terminations, truncations, infos, errors}``; a failed position holds ``null``."""

encode_resets: BatchEncoder[EncodedReset] = BatchEncoder(("observations", "infos", "errors"), _reset_columns)
"""``{observations, infos, errors}``."""

encode_initialized: BatchEncoder[Created] = BatchEncoder(
    ("env_ids", "observations", "infos", "errors"), _created_columns
)
"""``{env_ids, observations, infos, errors}``."""


def encode_closed(closed: int, errors: Sequence[tuple[int, VerlAgentEnvError]]) -> bytes:
    """Encode ``{closed, errors}``: the number of closed environments, and the errors of the others."""
    return b'{"closed":%d,"errors":%b}' % (closed, encode_errors(errors))


async def encode_closings(
    results: Sequence[VerlAgentEnvError | None], _: Callable[[], Awaitable[None]]
) -> Body:
    """Encode the results of closings as :func:`encode_closed` does."""
    errors = [(index, error) for index, error in enumerate(results) if error is not None]
    return encode_closed(len(results) - len(errors), errors)


def encode_errors(errors: Sequence[tuple[int, VerlAgentEnvError]]) -> bytes:
    """Encode ``[{index, …problem…}]``."""
    return orjson.dumps([_item_problem(index, error) for index, error in errors])


def _item_problem(index: int, error: VerlAgentEnvError) -> dict[str, Any]:
    problem = {"index": index, **error.to_problem()}
    faults = problem.get("errors")
    if isinstance(faults, list) and len(faults) > _MAX_ITEM_FAULTS:
        # One wrong set of arguments can belong to a hundred thousand items.
        problem["errors"] = faults[:_MAX_ITEM_FAULTS]
    return problem
