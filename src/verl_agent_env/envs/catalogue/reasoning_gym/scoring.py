"""Scores of answers: the package's, made safe against answers that are code, and paid only where an answer means something."""

from __future__ import annotations

import math
import re
from typing import Any

from verl_agent_env.envs.catalogue.reasoning_gym.formulas import is_small_formula
from verl_agent_env.envs.catalogue.reasoning_gym.tasks import GymTask, Item

_MEANINGLESS = ("", "zxqj", "None", "I do not know.", "asdf", "???")
"""Answers that mean nothing to any task; what they score is not paid."""
_FORMULAS = frozenset(
    {
        *("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24"),
        "simple_integration",
    }
)
"""Tasks whose score gives the answer to SymPy's parser, which evaluates it as Python."""
_LETTERS_IN_PLACE = frozenset({"figlet_font", "spell_backward"})
"""Tasks whose score pays each letter that stands where it should, in answers of any length."""
_MIN_CHARS = 4_000
_CHARS_FACTOR = 8
"""An answer may be so many characters long, and so many times as long as the question and its answer."""
_HUGE_EXPONENT = re.compile(r"[0-9.][eE][+-]?[0-9]{4,}|[0-9]{1000,}")
"""Numbers that take a computation of minutes to be written out."""
_MANY_TURNS = re.compile(r"[0-9]{3,}")


def score_of(task: GymTask, dataset: Any, item: Item, answer: str) -> float:
    """The package's score of ``answer``, from 0 to 1; 0 if it is no higher than that of a meaningless answer.

    Args:
        task: Whose item it is.
        dataset: With the configuration that the item was made with.
        item: As :meth:`GymTask.item` gives it.
        answer: What the model answers, without the marks around it.
    """
    if not answer or not _is_readable(task, item, answer):
        return 0.0
    score = _package_score(dataset, item, answer)
    if score <= 0.0 or score <= max(_package_score(dataset, item, junk) for junk in _MEANINGLESS):
        return 0.0
    expected = str(item["answer"])
    if task.name in _LETTERS_IN_PLACE and len(answer) != len(expected):
        return 0.0
    return 0.0 if _is_chance_match(expected, answer, score) else score


def _is_chance_match(expected: str, answer: str, score: float) -> bool:
    """Tell whether an answer is paid only because it contains the letters of the right one somewhere.

    The package pays an answer that contains the right one, by the part that it is of it: "on" within "None".
    """
    if not 0.0 < score < 1.0 or not expected or expected not in answer:
        return False
    is_containment = math.isclose(score, len(expected) / len(answer), rel_tol=1e-6)
    return is_containment and not re.search(rf"(?<!\w){re.escape(expected)}(?!\w)", answer)


def _is_readable(task: GymTask, item: Item, answer: str) -> bool:
    """Tell whether the package can be given an answer without harm."""
    expected = len(str(item["question"])) + len(str(item["answer"]))
    if len(answer) > max(_MIN_CHARS, _CHARS_FACTOR * expected) or _HUGE_EXPONENT.search(answer):
        return False
    if task.name in _FORMULAS:
        return is_small_formula(answer)
    # It writes a move out as often as the number behind it says.
    return task.name != "rubiks_cube" or not _MANY_TURNS.search(answer)


def _package_score(dataset: Any, item: Item, answer: str) -> float:
    try:
        score = float(dataset.score_answer(answer, item))
    except Exception:  # noqa: BLE001 - whatever the package raises, the answer is not one that it can read
        return 0.0
    return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0
