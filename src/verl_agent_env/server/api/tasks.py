"""Handlers of the calls on an environment's tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

from verl_agent_env.engine.tasks import TaskFinder
from verl_agent_env.envs.registry import Registry
from verl_agent_env.envs.tasks import Split
from verl_agent_env.server.api.queries import MAX_DIGITS, query_of, whole_number
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import encode

MAX_TASKS = 1000
"""Of a page."""
_DEFAULT_TASKS = 20
_PREFIX = "/api/environments/"


class TaskHandlers:
    """Answers what episodes an environment offers."""

    def __init__(self, registry: Registry, finder: TaskFinder) -> None:
        self._registry = registry
        self._finder = finder

    async def splits(self, request: Request) -> Response:
        """List the splits of an environment."""
        env_name = self._registry.resolve(_name_in(request))
        splits = await self._finder.splits(env_name)
        return Response(encode({"env_name": env_name, "splits": [shown_split(split) for split in splits]}))

    async def tasks(self, request: Request) -> Response:
        """List consecutive tasks of a split."""
        env_name = self._registry.resolve(_name_in(request))
        query = query_of(request)
        split = query.get("split", ["train"])[-1]
        offset = whole_number(query, "offset", 0, 0, 10**MAX_DIGITS)
        limit = whole_number(query, "limit", _DEFAULT_TASKS, 1, MAX_TASKS)
        page = await self._finder.page(env_name, split, offset, limit)
        return Response(
            encode(
                {
                    "env_name": env_name,
                    "split": shown_split(page.split),
                    "tasks": [dataclasses.asdict(task) for task in page.tasks],
                    "next_offset": page.next_offset,
                }
            )
        )


def shown_split(split: Split) -> dict[str, Any]:
    """Show a split in JSON."""
    return {**dataclasses.asdict(split), "type": split.type}


def _name_in(request: Request) -> str:
    return request.path.removeprefix(_PREFIX).rpartition("/")[0]
