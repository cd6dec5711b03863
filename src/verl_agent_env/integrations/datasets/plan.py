"""The plan of a data set: its environments, numbers of rows, and conditions on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from verl_agent_env.envs.layouts import TEST_SHARE
from verl_agent_env.integrations.datasets.layouts import Measure
from verl_agent_env.integrations.datasets.problem_files import GivenProblem, problems_of
from verl_agent_env.integrations.errors import CurationError

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Component:
    """One environment of a mixture."""

    env_name: str
    """Registered name, or a short one."""
    weight: float = 1.0
    """Share of the rows, relative to the weights of the other components."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment."""
    problems: Iterable[GivenProblem | Mapping[str, Any]] | None = None
    """Problems of one's own instead of those from seeds, their arguments on top of ``env_kwargs``: rows in the forms of
    :mod:`problem_files`, a ``datasets.Dataset`` among others. Kept as :attr:`given`."""
    given: tuple[GivenProblem, ...] | None = field(init=False, default=None, repr=False)
    """The problems, read."""
    min_difficulty: float | None = None
    """Lower bound of the rows' difficulty."""
    max_difficulty: float | None = None
    """Upper bound of the rows' difficulty."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise CurationError(f"The weight of '{self.env_name}' must be above 0.")
        if self.problems is None:
            return
        if isinstance(self.problems, tuple) and all(isinstance(row, GivenProblem) for row in self.problems):
            given = tuple(row for row in self.problems if isinstance(row, GivenProblem))
        else:
            given = problems_of(self.problems, self.env_name)
        if not given:
            raise CurationError(f"There are no problems for '{self.env_name}'.")
        object.__setattr__(self, "given", given)
        # Processes get what was read, not the data set.
        object.__setattr__(self, "problems", given)

    @property
    def filters(self) -> bool:
        """True if there is a bound on difficulty."""
        return self.min_difficulty is not None or self.max_difficulty is not None

    def admits(self, difficulty: float | None) -> bool:
        """Tell whether a difficulty is within the bounds; an unknown one is within none."""
        if not self.filters:
            return True
        if difficulty is None:
            return False
        lowest = float("-inf") if self.min_difficulty is None else self.min_difficulty
        highest = float("inf") if self.max_difficulty is None else self.max_difficulty
        return lowest <= difficulty <= highest


@dataclass(frozen=True)
class CurationPlan:
    """Plan of a data set; equal plans give equal bytes, whatever the number of processes."""

    components: tuple[Component, ...]
    """The environments."""
    train: int
    """Number of training rows."""
    test: int
    """Number of test rows."""
    seed: int = 0
    """First seed of the episodes."""
    test_share: float = TEST_SHARE
    """Share of all layouts that is reserved for tests, by their hash: equal shares reserve equal layouts."""
    repeat_layouts: bool = False
    """True to allow training rows of the same layout with different seeds."""
    with_layout: bool = False
    """True to store each row's layout in its arguments, so that it does not depend on the generator."""
    test_greedy: bool = False
    """True to write each test row twice, the second time for greedy decoding."""
    measure: Measure = "auto"
    """Measure of difficulty."""
    system_prompt: str | None = None
    """First message of every conversation."""
    demonstrations: int = 0
    """Number of episodes that the environments' solvers play, on training layouts."""
    demonstration_format: Literal["hermes", "answer"] = "hermes"
    """Format of demonstrated actions: tool calls in Hermes' format, or ``<answer>``."""
    noise: float = 0.0
    """Share of random actions in demonstrations."""
    max_turns: int = 100
    """Turns after which a demonstration ends."""
    patience: int = 20_000
    """Number of consecutive rejected problems after which the search fails."""

    def __post_init__(self) -> None:
        if not self.components:
            raise CurationError("Name at least one environment.")
        if min(self.train, self.test, self.demonstrations) < 0 or not self.train + self.test:
            raise CurationError("Ask for at least one row: --train, --test or both.")
        if not 0 <= self.test_share <= 1:
            raise CurationError("The share of layouts for tests must be from 0 to 1.")
        for rows, share, name in ((self.test, 0, "test"), (self.train, 1, "train")):
            if rows and self.test_share == share:
                raise CurationError(
                    f"With a test share of {share} no layout is left for the split '{name}': ask for --{name} 0."
                )
        if not 0 <= self.noise <= 1 or self.max_turns < 1 or self.patience < 1 or self.seed < 0:
            raise CurationError(
                "The noise must be from 0 to 1, the seed not negative, turns and patience at least 1."
            )
        if self.demonstrations > self.train:
            raise CurationError("Demonstrations are made of training rows: ask for no more than --train.")

    def wanted(self, split: Split) -> list[int]:
        """Return the number of rows of each component in a split, by weight; they add up to the number of the plan."""
        return apportion(
            self.train if split == "train" else self.test, [part.weight for part in self.components]
        )


def apportion(total: int, weights: list[float]) -> list[int]:
    """Divide ``total`` by weight into whole numbers, the largest remainders rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts
