"""The Task API that ORS and OpenEnv share: lists of tasks as other projects' clients ask for them.

Their protocols know no split without an end. Of one whose tasks are seeds they see as many as follow, and a task of it is
no more than its split and index: what its seed is, is looked for when it is played.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict

from verl_agent_env.errors import TaskNotFoundError, UnknownSplitError
from verl_agent_env.server.api.operations import Operations
from verl_agent_env.server.http.types import Handler, Request, Response
from verl_agent_env.wire.codec import decode, encode
from verl_agent_env.wire.schemas import RequestBody

BodyT = TypeVar("BodyT", bound=RequestBody)

LISTED_SEED_TASKS = 10_000
"""Tasks that are listed of a split without end; tasks and ranges are given beyond it, too."""
_PAGE = 1000
_MAX_RANGE = 10_000


class SplitRequest(RequestBody):
    """Ask for the tasks of a split, or their number."""

    model_config = ConfigDict(extra="ignore")

    split: str


class IndexRequest(SplitRequest):
    """Ask for one task."""

    index: int


class RangeRequest(SplitRequest):
    """Ask for consecutive tasks, with the bounds of a slice."""

    start: int | None = None
    stop: int | None = None


class TaskLister:
    """Lists tasks by means of the API."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def splits(self, env_name: str) -> list[dict[str, Any]]:
        """List the splits that have tasks."""
        found = await self._operations.call("GET", f"/api/environments/{env_name}/splits")
        return [split for split in found["splits"] if split["num_tasks"]]

    async def num_tasks(self, env_name: str, wanted: SplitRequest) -> int:
        """Count the tasks that are listed of a split."""
        return _listed(await self._split(env_name, wanted.split))

    async def tasks(self, env_name: str, wanted: SplitRequest) -> list[dict[str, Any]]:
        """List the tasks of a split."""
        split = await self._split(env_name, wanted.split)
        return await self._range(env_name, split, 0, _listed(split))

    async def task(self, env_name: str, wanted: IndexRequest) -> dict[str, Any]:
        """Give one task."""
        split = await self._split(env_name, wanted.split)
        if not 0 <= wanted.index < split["num_tasks"]:
            raise TaskNotFoundError(env_name, split["name"], wanted.index, split["num_tasks"])
        return (await self._range(env_name, split, wanted.index, wanted.index + 1))[0]

    async def task_range(self, env_name: str, wanted: RangeRequest) -> list[dict[str, Any]]:
        """Give consecutive tasks, as a slice of all that are listed; beyond those, where both bounds are given."""
        split = await self._split(env_name, wanted.split)
        listed = _listed(split)
        start = wanted.start or 0
        stop = listed if wanted.stop is None else wanted.stop
        start, stop = (max(0, bound + listed) if bound < 0 else bound for bound in (start, stop))
        return await self._range(env_name, split, start, min(stop, start + _MAX_RANGE, split["num_tasks"]))

    async def _split(self, env_name: str, name: str) -> dict[str, Any]:
        splits = await self.splits(env_name)
        for split in splits:
            if split["name"] == name:
                return split
        raise UnknownSplitError(env_name, name[:64], [split["name"] for split in splits])

    async def _range(
        self, env_name: str, split: dict[str, Any], start: int, stop: int
    ) -> list[dict[str, Any]]:
        name = split["name"]
        if split["infinite"]:
            return [{"split": name, "index": index, "id": f"{name}/{index}"} for index in range(start, stop)]
        tasks: list[dict[str, Any]] = []
        while start < stop:
            target = f"/api/environments/{env_name}/tasks?split={name}&offset={start}&limit={min(_PAGE, stop - start)}"
            page = (await self._operations.call("GET", target))["tasks"]
            tasks += page
            start += max(1, len(page))
        return tasks


class TaskApiHandlers:
    """Answers the Task API's calls, which both protocols have under their own paths."""

    def __init__(
        self,
        tasks: TaskLister,
        env_name: Callable[[Request], str],
        about: Callable[[str, str], Mapping[str, str]],
    ) -> None:
        """Answer calls.

        Args:
            tasks: Lists tasks.
            env_name: Finds the full name of the environment that a request is about.
            about: Gives what else a protocol's answers hold, by the name of the call and that of the environment.
        """
        self._tasks = tasks
        self._env_name = env_name
        self._about = about

    def calls(self) -> list[tuple[str, str, Handler]]:
        """Give method, name and handler of each call."""
        return [
            ("GET", "splits", self.splits),
            ("POST", "tasks", self._handler("tasks", "tasks", SplitRequest, self._tasks.tasks)),
            (
                "POST",
                "num_tasks",
                self._handler("num_tasks", "num_tasks", SplitRequest, self._tasks.num_tasks),
            ),
            ("POST", "task", self._handler("task", "task", IndexRequest, self._tasks.task)),
            (
                "POST",
                "task_range",
                self._handler("task_range", "tasks", RangeRequest, self._tasks.task_range),
            ),
        ]

    async def splits(self, request: Request) -> Response:
        """List the splits of an environment's tasks."""
        splits = await self._tasks.splits(self._env_name(request))
        return Response(encode([{"name": split["name"], "type": split["type"]} for split in splits]))

    def _handler(
        self, call: str, key: str, model: type[BodyT], find: Callable[[str, BodyT], Awaitable[Any]]
    ) -> Handler:
        async def handle(request: Request) -> Response:
            full = self._env_name(request)
            found = await find(full, decode(request.body, model))
            return Response(encode({key: found, **self._about(call, full)}))

        return handle


def _listed(split: dict[str, Any]) -> int:
    num_tasks: int = split["num_tasks"]
    return min(num_tasks, LISTED_SEED_TASKS) if split["infinite"] else num_tasks
