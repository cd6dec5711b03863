"""Arguments of Reasoning Gym's tasks: the configuration that the package takes, and the levels of its curriculum."""

from __future__ import annotations

import copy
import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, model_validator

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.reasoning_gym.tasks import GymTask, Item

_OURS = ("seed", "size")
"""Fields of every configuration that the episode determines."""
_MAX_ITEMS = 32


class TaskConfig(BaseModel):
    """The package's own configuration of a task, with the package's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class TaskArguments(EnvArguments):
    """Keyword arguments of Reasoning Gym's tasks."""

    task: ClassVar[GymTask]

    max_steps: int = Field(default=1, ge=1, le=1)
    """There is one turn."""
    difficulty: int | None = Field(default=None, ge=0)
    """Level of the package's curriculum, from 0; none: the package's defaults."""
    config: TaskConfig = TaskConfig()
    """The task's own configuration, as the package documents it; what is given here goes over ``difficulty``."""

    @model_validator(mode="after")
    def _check_config(self) -> TaskArguments:
        try:
            config = self.task.config_class(**self.package_config)
            if hasattr(config, "validate"):
                config.validate()
        except (AssertionError, ValueError, TypeError) as refused:
            raise ValueError(f"the task does not take this configuration: {refused}") from None
        return self

    @property
    def is_default(self) -> bool:
        """True if the configuration is the package's default."""
        return self.difficulty is None and not self.config.model_fields_set

    @property
    def package_config(self) -> dict[str, Any]:
        """The keyword arguments of the package's configuration that differ from its defaults."""
        level = {} if self.difficulty is None else self.task.config_of_level(self.difficulty)
        return {**level, **{name: getattr(self.config, name) for name in self.config.model_fields_set}}

    @functools.cached_property
    def dataset(self) -> Any:
        """The package's data set of this configuration; environments with equal arguments share it."""
        return self.task.dataset(self.package_config, seed=0)

    def item(self, seed: int) -> Item:
        """The item of a seed; the samples of a group, which have one, share it."""
        return self._items(seed)

    @functools.cached_property
    def _items(self) -> Callable[[int], Item]:
        return functools.lru_cache(maxsize=_MAX_ITEMS)(self._made_item)

    def _made_item(self, seed: int) -> Item:
        if not self.task.is_shared:
            return self.task.item(self.task.dataset(self.package_config, seed))
        dataset = copy.copy(self.dataset)
        dataset.seed = seed
        return self.task.item(dataset)


def arguments_of(task: GymTask) -> type[TaskArguments]:
    """The model of a task's arguments."""
    types = typing.get_type_hints(task.config_class)
    fields: dict[str, Any] = {
        field.name: _declared(field, types[field.name])
        for field in dataclasses.fields(task.config_class)
        if field.name not in _OURS and not field.name.startswith("_")
    }
    config = create_model(f"{task.name}_config", __base__=TaskConfig, __doc__=TaskConfig.__doc__, **fields)
    level = Field(default=None, ge=0, le=max(0, task.levels - 1), description=_LEVEL)
    made = create_model(
        f"{task.name}_arguments",
        __base__=TaskArguments,
        difficulty=(int | None, level),
        config=(config, Field(default=config(), description=_CONFIG)),
    )
    made.task = task
    return made


_LEVEL = TaskArguments.model_fields["difficulty"].description
_CONFIG = TaskArguments.model_fields["config"].description


def _declared(field: dataclasses.Field[Any], kind: Any) -> tuple[Any, Any]:
    """The type of a field and its default, as that type has it: some lists are given as tuples."""
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        default = field.default
    else:
        return kind, ...
    try:
        return kind, TypeAdapter(kind).validate_python(default)
    except ValidationError:
        # Its author declared another type than the one that the task works with.
        return Any, default
