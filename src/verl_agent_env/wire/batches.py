"""Bodies of batch answers: columns in request order, and a sparse list of what failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import orjson

from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

ResultT = TypeVar("ResultT")

_MAX_ITEM_FAULTS = 3
_NULL = b"null"
_FAILED = StepAnswer(_NULL, None, None, None, _NULL)  # type: ignore[arg-type]
"""What a failed position holds."""


_ITEMS = 4096
"""Items that are written in one turn: some milliseconds."""

Columns = list[bytes]
"""What stands between the brackets of each column."""


class BatchEncoder(Generic[ResultT]):
    """Writes answers to one kind of batch; ``encoder(results)`` at once, :meth:`in_turns` with turns for others."""

    def __init__(
        self, names: Sequence[str], columns: Callable[[Sequence[ResultT | VerlAgentEnvError], int], Columns]
    ) -> None:
        """An encoder of these columns.

        Args:
            names: Of the columns.
            columns: Gives them for some of the results, the first of which has this position in the batch.
        """
        self._heads = [b'"%b":[' % name.encode() for name in names]
        self._columns = columns

    def __call__(self, results: Sequence[ResultT | VerlAgentEnvError]) -> bytes:
        """The body for these results."""
        return self._body([self._columns(results, 0)])

    async def in_turns(
        self, results: Sequence[ResultT | VerlAgentEnvError], turn: Callable[[], Awaitable[None]]
    ) -> bytes:
        """As above; ``turn`` is waited for after every few milliseconds of work."""
        if len(results) <= _ITEMS:
            return self(results)
        pieces = []
        for first in range(0, len(results), _ITEMS):
            await turn()
            pieces.append(self._columns(results[first : first + _ITEMS], first))
        await turn()
        return self._body(pieces)

    def _body(self, pieces: Sequence[Columns]) -> bytes:
        written = [b"{"]
        for head, column in zip(self._heads, zip(*pieces, strict=True), strict=True):
            written.append(head)
            for piece in filter(None, column):
                written += (piece, b",")
            # After the last piece stands the end of its column.
            written[-1 if written[-1] == b"," else len(written) :] = [b"],"]
        written[-1] = b"]}"
        # Joined once: an answer can be large.
        return b"".join(written)


def _step_columns(results: Sequence[StepAnswer | VerlAgentEnvError], first: int) -> Columns:
    errors = [
        (index, result)
        for index, result in enumerate(results, first)
        if isinstance(result, VerlAgentEnvError)
    ]
    answers: Sequence[Any] = results
    if errors:
        answers = [_FAILED if isinstance(result, VerlAgentEnvError) else result for result in results]
    return [
        b",".join([answer.observation for answer in answers]),
        orjson.dumps([answer.reward for answer in answers])[1:-1],
        orjson.dumps([answer.terminated for answer in answers])[1:-1],
        orjson.dumps([answer.truncated for answer in answers])[1:-1],
        b",".join([answer.info for answer in answers]),
        encode_errors(errors)[1:-1],
    ]


def _reset_columns(results: Sequence[ResetAnswer | VerlAgentEnvError], first: int) -> Columns:
    observations, infos = [], []
    errors: list[tuple[int, VerlAgentEnvError]] = []
    for index, result in enumerate(results, first):
        if isinstance(result, ResetAnswer):
            observations.append(result.observation)
            infos.append(result.info)
        else:
            errors.append((index, result))
            observations.append(_NULL)
            infos.append(_NULL)
    return [b",".join(observations), b",".join(infos), encode_errors(errors)[1:-1]]


def _created_columns(results: Sequence[tuple[str, ResetAnswer] | VerlAgentEnvError], first: int) -> Columns:
    env_ids = [None if isinstance(result, VerlAgentEnvError) else result[0] for result in results]
    resets = [result if isinstance(result, VerlAgentEnvError) else result[1] for result in results]
    return [orjson.dumps(env_ids)[1:-1], *_reset_columns(resets, first)]


encode_steps: BatchEncoder[StepAnswer] = BatchEncoder(
    ("observations", "rewards", "terminations", "truncations", "infos", "errors"), _step_columns
)
"""``{observations, rewards, terminations, truncations, infos, errors}``; a failed position holds ``null``."""

encode_resets: BatchEncoder[ResetAnswer] = BatchEncoder(("observations", "infos", "errors"), _reset_columns)
"""``{observations, infos, errors}``."""

encode_initialized: BatchEncoder[tuple[str, ResetAnswer]] = BatchEncoder(
    ("env_ids", "observations", "infos", "errors"), _created_columns
)
"""``{env_ids, observations, infos, errors}``."""


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
