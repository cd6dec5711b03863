"""Results of tasks: how often each task of a run was tried, how often it succeeded, and what it was rewarded with.

A task is identified by what makes its episode: the environment, its keyword arguments and the seed. Results are counted once for each
episode that came to its end, whatever becomes of its environment afterwards.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

MAX_TASKS_PER_RUN = 100_000
"""Tasks of a run that are counted one by one; all further ones are counted together, as the task :data:`OTHER_TASKS`."""
OTHER_TASKS = "other"
MAX_TASKS_IN_MEMORY = 300_000
"""Tasks of all runs together that a process counts, which take about a hundred megabytes; each run counts as one more."""
TASKS_PER_PAGE = 1_000
RESULTS_MEMORY_S = 7 * 24 * 3600.0
"""Seconds for which the results of a run are kept in Redis after its last one."""


class TaskResult(NamedTuple):
    """The end of one episode."""

    run: str
    """Key of its run, by :func:`run_key`."""
    task: str
    success: bool
    reward: float
    """Sum of the episode's rewards."""

    def to_bytes(self) -> bytes:
        """Encode the result in three words and the task."""
        return f"{self.run} {self.success:d} {self.reward!r} {self.task}".encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> TaskResult:
        """Undo :meth:`to_bytes`."""
        run, success, reward, task = text.decode().split(" ", 3)
        return cls(run, task, success == "1", float(reward))


class TaskStatistics(NamedTuple):
    """Statistics of one task in one run."""

    task: str
    tries: int
    successes: int
    total_reward: float

    def plus(self, result: TaskResult) -> TaskStatistics:
        """Return the statistics with one more result."""
        return TaskStatistics(
            self.task,
            self.tries + 1,
            self.successes + result.success,
            self.total_reward + result.reward,
        )

    def joined(self, other: TaskStatistics) -> TaskStatistics:
        """Return the statistics with those of other tries of the task."""
        return TaskStatistics(
            self.task,
            self.tries + other.tries,
            self.successes + other.successes,
            self.total_reward + other.total_reward,
        )


class ResultPage(NamedTuple):
    """Statistics of some tasks of a run."""

    statistics: list[TaskStatistics]
    next_cursor: str | None
    """Cursor of the next page; ``None`` after the last one."""


class ResultTable:
    """Results of all runs, in memory; those of the runs without results for longest are forgotten where there are too many."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, dict[str, TaskStatistics]] = OrderedDict()
        self._size = 0
        """Tasks of all runs, and runs."""

    def add(self, result: TaskResult) -> None:
        """Count a result."""
        tasks = self._runs.get(result.run)
        if tasks is None:
            tasks = self._runs[result.run] = {}
            self._size += 1
        self._runs.move_to_end(result.run)
        is_known = result.task in tasks or len(tasks) < MAX_TASKS_PER_RUN
        task = result.task if is_known else OTHER_TASKS
        before = tasks.get(task)
        if before is None:
            before = TaskStatistics(task, 0, 0, 0.0)
            self._size += 1
        tasks[task] = before.plus(result)
        while self._size > MAX_TASKS_IN_MEMORY:
            _, forgotten = self._runs.popitem(last=False)
            self._size -= len(forgotten) + 1

    def page(self, run: str, cursor: str) -> ResultPage:
        """Return some tasks of a run, from a cursor on; ``0`` is the first."""
        statistics, first = list(self._runs.get(run, {}).values()), int(cursor)
        last = first + TASKS_PER_PAGE
        return ResultPage(statistics[first:last], str(last) if last < len(statistics) else None)

    def of(self, run: str, tasks: Sequence[str]) -> list[TaskStatistics]:
        """Return the statistics of those of these tasks of a run that there are."""
        known = self._runs.get(run, {})
        return [known[task] for task in tasks if task in known]

    def clear(self) -> None:
        """Forget everything."""
        self._runs.clear()
        self._size = 0


def run_key(run_id: str, tag: str | None) -> str:
    """Return the key of a run: runs of two holders with the same name are two runs."""
    return hashlib.sha256(f"{tag or ''}\n{run_id}".encode()).hexdigest()[:32]


def arguments_digest(env_kwargs: Mapping[str, Any]) -> str:
    """Return twelve hex digits that tell keyword arguments from others; empty if there are none."""
    if not env_kwargs:
        return ""
    return hashlib.sha256(orjson.dumps(env_kwargs, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def task_key(env_name: str, digest: str, seed: int) -> str:
    """Return the name of a task.

    Args:
        env_name: Full name of the environment.
        digest: Digest of its keyword arguments, by :func:`arguments_digest`.
        seed: Seed of the episode.
    """
    return f"{env_name}@{seed}-{digest}" if digest else f"{env_name}@{seed}"
