"""The tasks of Reasoning Gym: how an item comes from a seed, also where the package itself leaves that to chance."""

from __future__ import annotations

import ast
import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import reasoning_gym.algebra.polynomial_multiplication as polynomial_multiplication
import reasoning_gym.algorithmic.binary_matrix as binary_matrix
import reasoning_gym.algorithmic.game_of_life_halting as game_of_life_halting
import reasoning_gym.algorithmic.isomorphic_strings as isomorphic_strings
import reasoning_gym.algorithmic.ransom_note as ransom_note
import reasoning_gym.algorithmic.spiral_matrix as spiral_matrix
import reasoning_gym.algorithmic.string_insertion as string_insertion
import reasoning_gym.games.n_queens as n_queens
import reasoning_gym.induction.list_functions.generators  # noqa: F401 - to be there when its generator is replaced
from reasoning_gym.factory import CURRICULA, DATASETS

from verl_agent_env.envs.catalogue.chance import RandomStandIn

Item = dict[str, Any]

_SHARED = frozenset({"arc_agi", "codeio", "figlet_font", "group_anagrams", "rearc", "word_ladder"})
"""Tasks that read files when their data set is made, and nothing of a seed: one data set serves all seeds."""
_GLOBAL_RANDOM = frozenset({"list_functions"})
"""Tasks that draw from Python's global generator."""
_GLOBAL_NUMPY = frozenset({"pool_matrix"})
"""Tasks that seed NumPy's global generator and draw from it."""
_MAX_NUMPY_SEED = 1 << 32


class SortedSet(frozenset[str]):
    """Letters that come in the same order in every process, whatever its hashes are salted with."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__()))

    def __sub__(self, others: Any) -> SortedSet:
        return SortedSet(super().__sub__(frozenset(others)))


class _IsomorphicStrings(isomorphic_strings.IsomorphicStringsDataset):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.letters: Any = SortedSet(self.letters)


class _RansomNote(ransom_note.RansomNoteDataset):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.letters: Any = SortedSet(self.letters)


class _PolynomialMultiplication(polynomial_multiplication.PolynomialMultiplicationDataset):
    def _get_monomials(self, rng: Any) -> Any:
        # The package draws from a list that it made of a set.
        return sorted(super()._get_monomials(rng), key=str)


class _GameOfLifeHalting(game_of_life_halting.GameOfLifeHaltingDataset):
    def score_answer(self, answer: str | None, entry: Item) -> float:
        # The package compares truth values of texts, and every text that is not empty is true.
        return float(str(answer).strip().casefold() == str(entry["answer"]).casefold())


_MENDED: dict[str, type] = {
    "game_of_life_halting": _GameOfLifeHalting,
    "isomorphic_strings": _IsomorphicStrings,
    "polynomial_multiplication": _PolynomialMultiplication,
    "ransom_note": _RansomNote,
}
"""Classes that take the place of the package's."""

# These read a list in an answer with Python's ``eval``, which would run whatever a model writes.
for _module in (binary_matrix, n_queens, spiral_matrix, string_insertion):
    _module.eval = ast.literal_eval

_chance = RandomStandIn()
_chance.install("reasoning_gym.induction.list_functions")
_numpy_lock = threading.Lock()


@contextmanager
def _own_numpy_state() -> Iterator[None]:
    """Leave NumPy's global generator as it was; one at a time."""
    with _numpy_lock:
        state = np.random.get_state()
        try:
            yield
        finally:
            np.random.set_state(state)


@dataclass(frozen=True)
class GymTask:
    """A task of the package."""

    name: str
    dataset_class: Callable[[Any], Any]
    config_class: type
    curriculum_class: type | None

    @property
    def is_shared(self) -> bool:
        """True if one data set serves all seeds, through its attribute ``seed``."""
        return self.name in _SHARED

    def dataset(self, config: dict[str, Any], seed: int) -> Any:
        """The package's data set of one item.

        Raises:
            Exception: The package refuses the configuration, in whatever way.
        """
        if self.name in _GLOBAL_NUMPY:
            seed %= _MAX_NUMPY_SEED
        return self.dataset_class(self.config_class(**config, seed=seed, size=1))

    def item(self, dataset: Any) -> Item:
        """The item of a data set."""
        with self._guard(dataset.seed):
            item: Item = dataset[0]
        return item

    def _guard(self, seed: int) -> AbstractContextManager[None]:
        """Keep the task from the global generators."""
        if self.name in _GLOBAL_NUMPY:
            return _own_numpy_state()
        return _chance.drawing_from(random.Random(seed)) if self.name in _GLOBAL_RANDOM else nullcontext()

    @functools.cached_property
    def levels(self) -> int:
        """Number of difficulty levels of the package's curriculum; 0 without one."""
        if self.curriculum_class is None:
            return 0
        return max((len(each.levels) for each in self.curriculum_class().attributes.values()), default=0)

    def config_of_level(self, level: int) -> dict[str, Any]:
        """The values of the configuration that the curriculum sets at a level, from 0."""
        if self.curriculum_class is None:
            return {}
        curriculum = self.curriculum_class()
        curriculum.set_global_level(level)
        config = curriculum.generate_configuration()
        names = set()
        for attribute in curriculum.attributes.values():
            names |= {
                getattr(attribute, field)
                for field in ("field_name", "lower_field_name", "upper_field_name")
                if hasattr(attribute, field)
            }
        return {name: getattr(config, name) for name in sorted(names)}


@functools.cache
def load_task(name: str) -> GymTask:
    """The task of this name.

    Raises:
        KeyError: The package has none.
    """
    dataset_class, config_class = DATASETS[name]
    return GymTask(name, _MENDED.get(name, dataset_class), config_class, CURRICULA.get(name))
