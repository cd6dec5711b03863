"""Handlers of the calls on runs."""

from __future__ import annotations

from verl_agent_env.engine import Host
from verl_agent_env.errors import InvalidRequestError
from verl_agent_env.server.api.queries import query_of
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import encode
from verl_agent_env.wire.schemas import MAX_RUN_ID_LENGTH
from verl_agent_env.wire.task_results import TaskStatistics, run_key

_PREFIX = "/api/runs/"
_MAX_CURSOR_DIGITS = 20


class RunHandlers:
    """Answers how the tasks of a run went."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def tasks(self, request: Request) -> Response:
        """Give the statistics of some tasks of a run, those of all workers together."""
        run_id = request.path.removeprefix(_PREFIX).rpartition("/")[0]
        if not 0 < len(run_id) <= MAX_RUN_ID_LENGTH:
            message = f"must be 1 to {MAX_RUN_ID_LENGTH} characters"
            raise InvalidRequestError([{"loc": ["path", "run_id"], "msg": message}])
        cursor = query_of(request).get("cursor", ["0"])[-1]
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _MAX_CURSOR_DIGITS):
            raise InvalidRequestError([{"loc": ["query", "cursor"], "msg": "must be a next_cursor"}])
        page = await self._host.task_results(run_key(run_id, request.principal.tag), cursor)
        return Response(
            encode(
                {
                    "run_id": run_id,
                    "tasks": [_shown(each) for each in page.statistics],
                    "next_cursor": page.next_cursor,
                }
            )
        )


def _shown(statistics: TaskStatistics) -> dict[str, object]:
    return {
        "task": statistics.task,
        "tries": statistics.tries,
        "successes": statistics.successes,
        "mean_reward": statistics.total_reward / statistics.tries,
    }
