"""Rows of kept episodes with running sums by run, so that nothing has to be counted when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from verl_agent_env.types import tag_of
from verl_agent_env.wire.episodes import EpisodeRow

K = TypeVar("K")

POINT_S = 10
"""Seconds of a run that one point of its curve stands for."""


@dataclass
class RunSummary:
    """Sums over the episodes of a run; those of two workers can be added."""

    run_id: str | None
    episodes: int = 0
    judged: int = 0
    """Episodes whose environment judges them."""
    successes: int = 0
    reward: float = 0.0
    num_steps: int = 0
    invalid: int = 0
    """Episodes with an invalid action."""
    seconds: float = 0.0
    began_at: float = float("inf")
    """Of the first episode, also if that is not kept any more."""
    ended_at: float = 0.0
    """Of the last episode, likewise."""
    endings: dict[str, int] = field(default_factory=dict)
    envs: dict[str, list[float]] = field(default_factory=dict)
    """By env name: episodes, judged ones, successes, sum of rewards, steps, seconds."""
    points: dict[int, list[float]] = field(default_factory=dict)
    """By tens of seconds since the epoch: the same, where they were asked for."""
    training_steps: dict[int, list[float]] = field(default_factory=dict)
    """By training step: the same, where they were asked for."""

    @classmethod
    def of(cls, run_id: str | None, rows: Sequence[EpisodeRow], *, points: bool) -> RunSummary:
        """Sum up episodes of a run, one at least: without the points of its curves in a fifth of the time of :meth:`count`."""
        summary = cls(run_id, envs=_sums_by(rows, attrgetter("env_name")))
        episodes, judged, successes, reward, num_steps, seconds = map(
            sum, zip(*summary.envs.values(), strict=True)
        )
        summary.episodes, summary.judged, summary.successes = int(episodes), int(judged), int(successes)
        summary.reward, summary.num_steps, summary.seconds = reward, int(num_steps), seconds
        summary.invalid = sum(map(bool, map(attrgetter("num_invalid"), rows)))
        summary.began_at = min(map(attrgetter("began_at"), rows))
        summary.ended_at = max(map(attrgetter("ended_at"), rows))
        summary.endings = dict(Counter(map(attrgetter("ending"), rows)))
        if points:
            summary.points = _sums_by(rows, lambda row: int(row.ended_at // POINT_S))
            known = [row for row in rows if row.training_step is not None]
            summary.training_steps = _sums_by(known, attrgetter("training_step"))
        return summary

    def add(self, other: RunSummary) -> None:
        """Add the sums of another part of the run."""
        for name in ("episodes", "judged", "successes", "reward", "num_steps", "invalid", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.began_at, self.ended_at = min(self.began_at, other.began_at), max(self.ended_at, other.ended_at)
        self.endings = dict(Counter(self.endings) + Counter(other.endings))
        for name, sums in other.envs.items():
            _count(self.envs, name, sums)
        for at, sums in other.points.items():
            _count(self.points, at, sums)
        for step, sums in other.training_steps.items():
            _count(self.training_steps, step, sums)

    def count(self, row: EpisodeRow, sign: int) -> None:
        """Count an episode (``sign`` is 1), or take one out that is not kept any more (-1)."""
        seconds = sign * (row.ended_at - row.began_at)
        judged = sign if row.success is not None else 0
        success = sign if row.success else 0
        self.episodes += sign
        self.judged += judged
        self.successes += success
        self.reward += sign * row.reward
        self.num_steps += sign * row.num_steps
        self.invalid += sign if row.num_invalid else 0
        self.seconds += seconds
        if sign > 0:
            self.began_at, self.ended_at = min(self.began_at, row.began_at), max(self.ended_at, row.ended_at)
        self.endings[row.ending] = self.endings.get(row.ending, 0) + sign
        if not self.endings[row.ending]:
            del self.endings[row.ending]
        sums = (sign, judged, success, sign * row.reward, sign * row.num_steps, seconds)
        _count(self.envs, row.env_name, sums)
        _count(self.points, int(row.ended_at // POINT_S), sums)
        if row.training_step is not None:
            _count(self.training_steps, row.training_step, sums)


class EpisodeRows:
    """Rows by the id of their episode, in the order in which they came."""

    def __init__(self) -> None:
        self._rows: dict[str, EpisodeRow] = {}
        self._runs: dict[tuple[str, str | None], RunSummary] = {}

    def add(self, row: EpisodeRow) -> None:
        """Add the row of an episode, in place of one that it has already."""
        self.remove(row.id)
        self._rows[row.id] = row
        key = tag_of(row.env_id), row.run_id
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = RunSummary(row.run_id)
        run.count(row, 1)

    def of(self, episode_id: str) -> EpisodeRow:
        """Return the row of an episode that has one."""
        return self._rows[episode_id]

    def remove(self, episode_id: str) -> None:
        """Take out the row of an episode, if there is one."""
        row = self._rows.pop(episode_id, None)
        if row is None:
            return
        key = tag_of(row.env_id), row.run_id
        self._runs[key].count(row, -1)
        if not self._runs[key].episodes:
            del self._runs[key]

    def remove_first(self, number: int) -> None:
        """Take out so many rows, those that came first."""
        for episode_id in self.ids()[: max(0, number)]:
            self.remove(episode_id)

    def clear(self) -> None:
        """Take out all rows."""
        self._rows.clear()
        self._runs.clear()

    def ids(self) -> list[str]:
        """Return the ids of all episodes, in order."""
        return list(self._rows)

    def rows(self) -> Sequence[EpisodeRow]:
        """Return all rows, in order."""
        return list(self._rows.values())

    def runs(self, tag: str | None) -> list[RunSummary]:
        """Return the sums by run, which are to be read alone; with a ``tag``, those of its holder's episodes."""
        return [run for (holder, _), run in self._runs.items() if tag in (None, holder)]


def grouped(rows: Iterable[EpisodeRow], key: Callable[[EpisodeRow], K]) -> dict[K, list[EpisodeRow]]:
    """Return rows by what ``key`` gives of them, in their order."""
    groups: dict[K, list[EpisodeRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _sums_by(rows: Sequence[EpisodeRow], key: Callable[[EpisodeRow], K]) -> dict[K, list[float]]:
    return {name: _sums_of(some) for name, some in grouped(rows, key).items()}


def _sums_of(rows: Sequence[EpisodeRow]) -> list[float]:
    """Return episodes, judged ones, successes, sum of rewards, steps, seconds."""
    judgements = Counter(map(attrgetter("success"), rows))
    return [
        len(rows),
        judgements[True] + judgements[False],
        judgements[True],
        sum(map(attrgetter("reward"), rows)),
        sum(map(attrgetter("num_steps"), rows)),
        sum([row.ended_at - row.began_at for row in rows]),
    ]


def _count(into: dict[Any, list[float]], key: Any, sums: Iterable[float]) -> None:
    known = into.get(key)
    if known is None:
        into[key] = list(sums)
        return
    for index, number in enumerate(sums):
        known[index] += number
    if not known[0]:
        del into[key]
