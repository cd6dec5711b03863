"""A curriculum by pass rates: tasks that are solved about half the time teach most, so they are played more often.

Groups of samples that all succeed, or all fail, have no advantage to learn from (GRPO). The chance that a task gives both
outcomes is largest at a pass rate of one half.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from verl_agent_env.client import EnvClient
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.wire.task_results import TaskStatistics, arguments_digest, task_key

PRIOR = 1.0
"""Successes and failures that every task is taken to have had: an untried one counts as solved half the time."""
MEMORY = 0.5
"""Weight of the results before the last ones."""
FLOOR = 0.1
"""Weight that no task falls below, relative to the highest: what was too hard is tried again."""


def weight_of(tries: float, successes: float) -> float:
    """Return how much a task with these results is preferred, from :data:`FLOOR` to 1."""
    rate = (successes + PRIOR) / (tries + 2 * PRIOR)
    return max(FLOOR, 4 * rate * (1 - rate))


class PassRateCurriculum:
    """Draws tasks by their pass rates; the same ones for the same results, seed and numbers."""

    def __init__(self, tasks: Sequence[str], seed: int) -> None:
        """Know no results yet.

        Args:
            tasks: Names of the tasks, by :func:`~verl_agent_env.wire.task_results.task_key`, one for each row.
            seed: Seed of what is drawn.
        """
        self._tasks = list(tasks)
        self._seed = seed
        self._read: dict[str, TaskStatistics] = {}
        self._recent: dict[str, tuple[float, float]] = {}
        """Tries and successes, former ones counting less."""
        self._cumulative: list[float] = []
        self.note({})

    def note(self, results: Mapping[str, TaskStatistics]) -> None:
        """Take in the results so far, by the names of their tasks.

        What came since the results before counts whole, everything earlier of the same task by :data:`MEMORY`: a policy that
        learns is not what it was.
        """
        for task, found in results.items():
            before = self._read.get(task, TaskStatistics(task, 0, 0, 0.0))
            if found.tries > before.tries:
                tries, successes = self._recent.get(task, (0.0, 0.0))
                self._recent[task] = (
                    MEMORY * tries + found.tries - before.tries,
                    MEMORY * successes + found.successes - before.successes,
                )
                self._read[task] = found
        total, cumulative = 0.0, []
        for task in self._tasks:
            total += weight_of(*self._recent.get(task, (0.0, 0.0)))
            cumulative.append(total)
        self._cumulative = cumulative

    def row(self, number: int) -> int:
        """Return the row to play as the draw of this number."""
        dice = random.Random(f"{self._seed}:{number}")
        return dice.choices(range(len(self._tasks)), cum_weights=self._cumulative)[0]


class ServedCurriculum:
    """A curriculum that reads the results of a run from the server, again after so many rows."""

    def __init__(
        self, options: RolloutOptions, specs: Sequence[EpisodeSpec], seed: int, rows_per_reading: int
    ) -> None:
        """Read no results yet.

        Args:
            options: The server, and the run.
            specs: The episodes, one for each row.
            seed: Seed of what is drawn.
            rows_per_reading: Rows that are drawn from the same results.
        """
        self._options = options
        self._curriculum = PassRateCurriculum([task_of(spec) for spec in specs], seed)
        self._rows_per_reading = rows_per_reading
        self._drawn = 0

    def next_row(self) -> int:
        """Return the next row to play.

        Raises:
            VerlAgentEnvError: The server does not answer.
        """
        if self._drawn % self._rows_per_reading == 0:
            options = self._options
            with EnvClient(options.url, token=options.token, deadline_s=options.deadline_s) as client:
                found = client.task_results(options.run_id or "")
            self._curriculum.note({each.task: each for each in found})
        self._drawn += 1
        return self._curriculum.row(self._drawn - 1)


def task_of(spec: EpisodeSpec) -> str:
    """Return the name under which the server counts the results of an episode."""
    return task_key(spec.env_name, arguments_digest(spec.env_kwargs), spec.seed)
