"""What a caller gave is never repeated in the errors of a model of arguments: it may be a reference, a key, a hidden goal."""

from __future__ import annotations

import importlib
import pkgutil

from pydantic import BaseModel

from verl_agent_env import envs


def test_no_model_of_arguments_shows_what_was_given() -> None:
    for module in pkgutil.walk_packages(envs.__path__, f"{envs.__name__}."):
        # Families of the catalogue need their packages.
        if ".catalogue." not in module.name:
            importlib.import_module(module.name)
    found = {each for each in _below(BaseModel) if each.__module__.startswith(envs.__name__)}
    assert len(found) > 20
    assert [each.__name__ for each in found if not each.model_config.get("hide_input_in_errors")] == []


def _below(kind: type[BaseModel]) -> set[type[BaseModel]]:
    return {each for child in kind.__subclasses__() for each in (child, *_below(child))}
