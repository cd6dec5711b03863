"""The tasks of Reasoning Gym, as the package lists them."""

from __future__ import annotations

import inspect
import re

from reasoning_gym.factory import DATASETS

from verl_agent_env.envs.catalogue.family import Listing
from verl_agent_env.envs.catalogue.reasoning_gym.tasks import load_task

_OPENING = re.compile(r"^(?:Generates?|Dataset (?:for|of|that generates))\s+", re.IGNORECASE)
_LEFT_OUT: dict[str, str] = {
    "composite": "a mixture of other tasks; name several environments instead",
}


def read() -> Listing:
    """Find all tasks."""
    return Listing({name: _row(name) for name in DATASETS if name not in _LEFT_OUT}, _LEFT_OUT)


def _row(name: str) -> tuple[str, list[str]]:
    task = load_task(name)
    dataset_class = DATASETS[name][0]
    tags = ["single-turn", "1-player", dataset_class.__module__.split(".")[1]]
    if task.levels:
        tags.append("difficulty")
    if isinstance(task.item(task.dataset({}, seed=0))["answer"], str):
        tags.append("solver")
    return _description(name, dataset_class), tags


def _description(name: str, dataset_class: type) -> str:
    # Its own docstring, not one that it inherits.
    said = inspect.cleandoc(vars(dataset_class).get("__doc__") or "").split("\n\n")[0].split("\n")[0]
    said = _OPENING.sub("", said).split(" - ")[0].split(", as described")[0].strip(" .")
    words = name.replace("_", " ")
    sentence = f"{words[0].upper()}{words[1:]}"
    if not said:
        return f"{sentence}."
    is_acronym = said[:2].isupper() or said[1:3] == "::"
    return f"{sentence}: {said if is_acronym else said[0].lower() + said[1:]}."
