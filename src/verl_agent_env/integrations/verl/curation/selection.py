"""Chooses the rows: problems in the order of their seeds, each kept if it is wanted, whoever looked at it."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from verl_agent_env.integrations.verl.curation.layouts import position_of
from verl_agent_env.integrations.verl.curation.plan import Component, CurationPlan, Split
from verl_agent_env.integrations.verl.curation.problems import Examiner, Problem, Refused
from verl_agent_env.integrations.verl.errors import CurationError

_CHUNK = 32
"""Problems that a process looks at in one go."""
_CHUNKS_AHEAD = 3
"""Chunks that are under way for each process."""

Progress = Callable[[int], None]
"""Told how many more rows were chosen."""
Looks = Generator[Problem | Refused, None, None]


@dataclass
class Chosen:
    """The rows of one component."""

    env_name: str
    """Full name of the environment."""
    train: list[Problem] = field(default_factory=list)
    test: list[Problem] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Problems that were not kept, by reason."""

    def of(self, split: Split) -> list[Problem]:
        """The rows of a split."""
        return self.train if split == "train" else self.test


def choose(plan: CurationPlan, workers: int, progress: Progress) -> list[Chosen]:
    """Choose the rows of all components.

    Args:
        plan: What is to be made.
        workers: Processes to use; their number changes nothing but the time.
        progress: Told of each row.

    Raises:
        UnknownEnvNameError, InvalidEnvArgumentsError: There is no such environment.
        CurationError: There are not as many different problems as were asked for.
    """
    # Also the check of all arguments, before a process is started.
    examiners = [Examiner(plan, component) for component in plan.components]
    seen: set[str] = set()
    chosen = []
    with _Lookout(plan, examiners, workers) as lookout:
        for index, examiner in enumerate(examiners):
            wanted = {"train": plan.wanted("train")[index], "test": plan.wanted("test")[index]}
            with closing(lookout.looks(index)) as looks:
                chosen.append(_choose_of(plan, index, examiner.env_name, looks, wanted, seen, progress))
    return chosen


def _choose_of(
    plan: CurationPlan,
    index: int,
    env_name: str,
    looks: Looks,
    wanted: dict[str, int],
    seen: set[str],
    progress: Progress,
) -> Chosen:
    component = plan.components[index]
    chosen = Chosen(env_name)
    last_refusal, in_vain = "", 0
    while any(len(chosen.of(split)) < wanted[split] for split in ("train", "test")):
        problem = next(looks, None)
        if problem is None or in_vain >= plan.patience:
            raise CurationError(_shortage(plan, component, chosen, wanted, last_refusal))
        in_vain += 1
        if isinstance(problem, Refused):
            last_refusal = problem.reason
            chosen.passed_over["refused"] += 1
            continue
        split: Split = "test" if position_of(problem.layout) < plan.test_share else "train"
        reason = _reason_against(plan, component, problem, split, len(chosen.of(split)) < wanted[split], seen)
        if reason:
            chosen.passed_over[reason] += 1
            continue
        seen.add(problem.layout)
        chosen.of(split).append(problem)
        progress(1)
        in_vain = 0
    return chosen


def _reason_against(
    plan: CurationPlan, component: Component, problem: Problem, split: Split, has_room: bool, seen: set[str]
) -> str:
    if not component.admits(problem.difficulty):
        return "difficulty"
    if not has_room:
        return "not needed"
    if problem.layout in seen and not (split == "train" and plan.repeat_layouts):
        return "same layout"
    return ""


def _shortage(
    plan: CurationPlan, component: Component, chosen: Chosen, wanted: dict[str, int], last_refusal: str
) -> str:
    looked_at = len(chosen.train) + len(chosen.test) + chosen.passed_over.total()
    passed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(chosen.passed_over.items()))
    advice = [] if plan.repeat_layouts else ["let training rows repeat layouts (--repeat-layouts)"]
    if component.filters:
        advice.append("widen the difficulties")
    return (
        f"Among {looked_at:,} problems of '{chosen.env_name}' there are {len(chosen.train):,} of {wanted['train']:,} "
        f"rows to train on and {len(chosen.test):,} of {wanted['test']:,} to test with (passed over: {passed}); "
        f"ask for fewer{''.join(', or ' + hint for hint in advice)}."
        f"{' The last refusal: ' + last_refusal if last_refusal else ''}"
    )


class _Lookout:
    """Looks at problems in this process or in several, and gives what it saw in the order of their numbers."""

    def __init__(self, plan: CurationPlan, examiners: list[Examiner], workers: int) -> None:
        self._plan = plan
        self._examiners = examiners
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Lookout:
        if self._workers > 1:
            # Not forked: a process that has threads, a test runner say, cannot be forked safely.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, _begin_process, (self._plan,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def looks(self, index: int) -> Looks:
        """All problems of a component, in order."""
        problems = self._plan.components[index].problems
        numbers = itertools.count() if problems is None else iter(range(len(problems)))
        if self._pool is None:
            yield from map(self._examiners[index].examine, numbers)
            return
        ahead: deque[Future[list[Problem | Refused]]] = deque()
        try:
            while True:
                while len(ahead) < _CHUNKS_AHEAD * self._workers:
                    chunk = list(itertools.islice(numbers, _CHUNK))
                    if not chunk:
                        break
                    ahead.append(self._pool.submit(_examine, index, chunk))
                if not ahead:
                    return
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


_process_examiners: list[Examiner] = []
"""Of a process of the pool; one for each component."""


def _begin_process(plan: CurationPlan) -> None:
    _process_examiners[:] = [Examiner(plan, component) for component in plan.components]


def _examine(index: int, numbers: list[int]) -> list[Problem | Refused]:
    return [_process_examiners[index].examine(number) for number in numbers]
