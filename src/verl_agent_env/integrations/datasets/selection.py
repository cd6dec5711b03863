"""Selection of rows: problems in the order of their seeds, each accepted or rejected, in any number of processes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from verl_agent_env.envs.layouts import position_of
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.integrations.datasets.plan import Component, CurationPlan, Split
from verl_agent_env.integrations.datasets.problems import Examiner, Problem, Refused
from verl_agent_env.integrations.datasets.workers import Workers
from verl_agent_env.integrations.errors import CurationError

Progress = Callable[[int], None]
"""Called with the number of newly selected rows."""
Looks = Generator[Problem | Refused, None, None]


class Remark(NamedTuple):
    """One row of one's own problems, and what became of it."""

    env_name: str
    place: str
    """``line 3``."""
    reason: str
    """``refused``, ``same layout``, ``difficulty``, ``not needed``, or ``no known solution``."""
    detail: str = ""
    is_kept: bool = False


@dataclass
class Chosen:
    """The rows of one component."""

    env_name: str
    """Full name of the environment."""
    train: list[Problem] = field(default_factory=list)
    test: list[Problem] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Numbers of rejected problems, by reason."""
    remarks: list[Remark] = field(default_factory=list)
    """What there is to say of problems of one's own: of each that was not kept, and of each without a known solution."""

    def pass_over(self, problem: Problem | Refused, reason: str, detail: str) -> None:
        """Count a problem that is not kept, and note it if it is one of one's own."""
        self.passed_over[reason] += 1
        if problem.place:
            self.remarks.append(Remark(self.env_name, problem.place, reason, detail))

    def of(self, split: Split) -> list[Problem]:
        """Return the rows of a split."""
        return self.train if split == "train" else self.test


def choose(plan: CurationPlan, workers: Workers, progress: Progress) -> list[Chosen]:
    """Choose the rows of all components.

    Args:
        plan: Plan of the data set.
        workers: Processes, initialized with :func:`begin_process`.
        progress: Called for each row.

    Raises:
        CurationError: There are not as many different problems as were asked for.
    """
    seen: dict[str, str] = {}
    chosen = []
    for index, component in enumerate(plan.components):
        env_name = default_registry().kind(component.env_name).name
        wanted = {"train": plan.wanted("train")[index], "test": plan.wanted("test")[index]}
        with closing(workers.map(partial(_examine, index), _numbers_of(component))) as looks:
            chosen.append(_choose_of(plan, index, env_name, looks, wanted, seen, progress))
    return chosen


def _choose_of(
    plan: CurationPlan,
    index: int,
    env_name: str,
    looks: Looks,
    wanted: dict[str, int],
    seen: dict[str, str],
    progress: Progress,
) -> Chosen:
    component = plan.components[index]
    chosen = Chosen(env_name)
    last_refusal, in_vain = "", 0
    while any(len(chosen.of(split)) < wanted[split] for split in ("train", "test")):
        problem = next(looks, None)
        if problem is None or in_vain >= plan.patience:
            raise CurationError(
                _shortage(plan, component, chosen, wanted, last_refusal), tuple(chosen.remarks)
            )
        in_vain += 1
        if isinstance(problem, Refused):
            last_refusal = f"{problem.place}: {problem.reason}" if problem.place else problem.reason
            chosen.pass_over(problem, "refused", problem.reason)
            continue
        split: Split = "test" if position_of(problem.layout) < plan.test_share else "train"
        reason = _reason_against(plan, component, problem, split, len(chosen.of(split)) < wanted[split], seen)
        if reason:
            chosen.pass_over(problem, reason, _detail(reason, problem, split, seen))
            continue
        seen.setdefault(problem.layout, problem.place)
        chosen.of(split).append(problem)
        if problem.has_no_known_solution:
            chosen.remarks.append(Remark(env_name, problem.place, "no known solution", is_kept=True))
        progress(1)
        in_vain = 0
    for problem in looks if component.given is not None else ():
        if isinstance(problem, Refused):
            chosen.pass_over(problem, "refused", problem.reason)
        else:
            chosen.pass_over(problem, "not needed", "there are as many rows as were asked for")
    return chosen


def _reason_against(
    plan: CurationPlan,
    component: Component,
    problem: Problem,
    split: Split,
    has_room: bool,
    seen: Mapping[str, str],
) -> str:
    if not component.admits(problem.difficulty):
        return "difficulty"
    if not has_room:
        return "not needed"
    if problem.layout in seen and not (split == "train" and plan.repeat_layouts):
        return "same layout"
    return ""


def _detail(reason: str, problem: Problem, split: Split, seen: Mapping[str, str]) -> str:
    if reason == "difficulty":
        return f"its difficulty is {'unknown' if problem.difficulty is None else f'{problem.difficulty:g}'}"
    if reason == "same layout":
        first = seen[problem.layout]
        return (
            f"the same problem as {first}, which may be written in another order"
            if first
            else "the same problem as another row"
        )
    return f"by its hash it belongs to the split '{split}', which is full"


def _shortage(
    plan: CurationPlan, component: Component, chosen: Chosen, wanted: dict[str, int], last_refusal: str
) -> str:
    looked_at = len(chosen.train) + len(chosen.test) + chosen.passed_over.total()
    counts = ", ".join(f"{reason} {count:,}" for reason, count in sorted(chosen.passed_over.items()))
    passed = f" (passed over: {counts})" if counts else ""
    advice = [] if plan.repeat_layouts else ["let training rows repeat layouts (--repeat-layouts)"]
    if component.filters:
        advice.append("widen the difficulties")
    return (
        f"Among {looked_at:,} problems of '{chosen.env_name}' there are {len(chosen.train):,} of {wanted['train']:,} "
        f"rows to train on and {len(chosen.test):,} of {wanted['test']:,} to test with{passed}; "
        f"ask for fewer{''.join(', or ' + hint for hint in advice)}."
        f"{' The last refusal: ' + last_refusal if last_refusal else ''}"
    )


_examiners: list[Examiner] = []
"""Examiners of this process, one for each component."""


def begin_process(plan: CurationPlan) -> None:
    """Initialize a process, which checks the arguments of all components.

    Raises:
        UnknownEnvNameError, InvalidEnvArgumentsError: There is no such environment.
    """
    _examiners[:] = [Examiner(plan, component) for component in plan.components]


def _examine(index: int, number: int) -> Problem | Refused:
    return _examiners[index].examine(number)


def _numbers_of(component: Component) -> Iterable[int]:
    return itertools.count() if component.given is None else range(len(component.given))
