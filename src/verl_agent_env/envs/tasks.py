"""Tasks: the episodes that a kind of environment offers, by split and index.

A task is an env name, keyword arguments and a seed. Where tasks come from, in this order:

- a file that the server was given (``--tasks NAME=FILE``, :mod:`verl_agent_env.envs.task_files`);
- the kind itself (:meth:`~verl_agent_env.envs.base.ChatEnv.task_lists`);
- seeds, without end: the task of an index is the first seed of a range of its own whose layout belongs to the split.
  A layout belongs to one split by its hash, so training and tests never share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from verl_agent_env.envs.layouts import TEST_SHARE
from verl_agent_env.types import MAX_SPLIT_NAME_LENGTH

SplitType = Literal["train", "validation", "test"]

SEEDS_PER_TASK = 4096
"""Size of the range of seeds of one index."""
MAX_SEED_TASKS = 2**53 // SEEDS_PER_TASK
"""Number of tasks of a split of seeds; all their seeds are exact in JavaScript, too."""
SAMPLED_SEEDS = 64
"""Number of seeds whose layouts decide whether a kind has layouts for both splits."""

_TYPES: Mapping[str, SplitType] = {"train": "train", "validation": "validation", "test": "test"}
_ROW_FIELDS = ("id", "split", "seed", "env_kwargs", "env_name")


@dataclass(frozen=True, slots=True)
class Split:
    """Split of a kind's tasks."""

    name: str
    """``train``, ``test``, or a name of its own."""
    num_tasks: int
    """Number of its tasks."""
    infinite: bool = False
    """True if tasks are seeds: ``num_tasks`` is then only the bound of an index."""

    @property
    def type(self) -> SplitType:
        """Purpose of the split; a split with a name of its own is for validation."""
        return _TYPES.get(self.name, "validation")


@dataclass(frozen=True, slots=True)
class Task:
    """Episode to be played."""

    split: str
    index: int
    """Position in the split, from 0."""
    seed: int
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    """Id of the row in its file; ``split/index`` without one."""


@dataclass(frozen=True, slots=True)
class _Row:
    seed: int
    env_kwargs: bytes
    """Keyword arguments as JSON: as dictionaries they would take ten times the memory."""
    id: str


class TaskList:
    """List of tasks, by split."""

    def __init__(self) -> None:
        self._rows: dict[str, list[_Row]] = {}

    @classmethod
    def of(cls, lists: Mapping[str, Iterable[Mapping[str, Any]]]) -> TaskList:
        """Make one of rows by split, as :meth:`~verl_agent_env.envs.base.ChatEnv.task_lists` gives them.

        Raises:
            ValueError: A row is not a task.
        """
        made = cls()
        for split, rows in lists.items():
            for row in rows:
                made.add(row, split)
        return made

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def add(self, row: Mapping[str, Any], split: str) -> None:
        """Add a task.

        Args:
            row: ``id``, ``split``, ``seed``, ``env_kwargs`` (also as JSON), ``env_name``, each of which may be left out. A
                task without a seed takes its index.
            split: The split of a row that names none.

        Raises:
            ValueError: The row is no task; the message gives the reason.
        """
        unknown = [name for name in row if name not in _ROW_FIELDS]
        if unknown:
            raise ValueError(f"unknown field '{unknown[0]}'; a task has {', '.join(_ROW_FIELDS)}")
        named = row.get("split")
        name = split if named is None else named
        if not isinstance(name, str) or not 0 < len(name) <= MAX_SPLIT_NAME_LENGTH or "/" in name:
            raise ValueError(
                f"split must be a name of 1 to {MAX_SPLIT_NAME_LENGTH} characters without '/', not {name!r:.80}"
            )
        rows = self._rows.setdefault(name, [])
        seed = row.get("seed")
        seed = len(rows) if seed is None else seed
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r:.80}")
        kwargs = row.get("env_kwargs")
        if isinstance(kwargs, str):
            kwargs = orjson.loads(kwargs) if kwargs else {}
        kwargs = {} if kwargs is None else kwargs
        if not isinstance(kwargs, Mapping):
            raise ValueError(f"env_kwargs must be an object, not {kwargs!r:.80}")
        task_id = row.get("id")
        rows.append(_Row(seed, orjson.dumps(dict(kwargs)), "" if task_id is None else str(task_id)))

    def splits(self) -> list[Split]:
        """List the splits in the order in which they came."""
        return [Split(name, len(rows)) for name, rows in self._rows.items()]

    def task(self, split: str, index: int) -> Task:
        """Return one task of :meth:`splits`; the index must be one of the split."""
        row = self._rows[split][index]
        return Task(split, index, row.seed, orjson.loads(row.env_kwargs), row.id or f"{split}/{index}")


def seeds_of(index: int) -> range:
    """Return the seeds that may be the task of this index, in any split."""
    return range(index * SEEDS_PER_TASK, (index + 1) * SEEDS_PER_TASK)


def seed_task(split: str, index: int, seed: int, env_kwargs: Mapping[str, Any]) -> Task:
    """Make the task of a split of seeds."""
    return Task(split, index, seed, env_kwargs, f"{split}/{index}")


def seed_splits(test_below: float) -> list[Split]:
    """List the splits of a kind whose tasks are seeds; without layouts for it, the test split is empty."""
    endless = Split("train", MAX_SEED_TASKS, infinite=True)
    return [endless, Split("test", MAX_SEED_TASKS, infinite=True) if test_below else Split("test", 0)]


def split_at(position: float, test_below: float) -> str:
    """Return the split of a layout, given its position in [0, 1)."""
    return "test" if position < test_below else "train"


def share_for_tests(positions: Sequence[float]) -> float | None:
    """Choose the share of layouts for tests, given the positions of the first seeds' layouts.

    Args:
        positions: Positions of the layouts of the seeds from 0 on, at most :data:`SAMPLED_SEEDS`.

    Returns:
        The usual share as soon as both splits have a layout. If one of them has none among all sampled seeds, the layout
        with the smallest position is for tests and all others are for training; a single layout is for training. ``None``
        while more seeds have to be sampled.
    """
    found = sorted(set(positions))
    if found and found[0] < TEST_SHARE <= found[-1]:
        return TEST_SHARE
    if len(positions) < SAMPLED_SEEDS:
        return None
    return (found[0] + found[1]) / 2 if len(found) > 1 else 0.0
