"""Base of the adapters of all families: costs and execution come from the catalogue, versions from the family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from verl_agent_env.envs.base import ChatEnv, EnvArguments, Execution
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.types import Info, Observation

MAX_INLINE_MS = 20.0
"""What a call may cost that runs on the event loop, where all others wait for it."""


class CatalogueEnv(ChatEnv):
    """Base class of the adapters; :func:`adapter_class` makes the class of one environment of it."""

    row: ClassVar[EnvSpec]
    """The environment's row in the catalogue."""

    __slots__ = ()

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:  # noqa: ARG003 - a family looks at them
        return 1.0 if cls.row.costs is None else cls.row.costs.highest_ms


class TimedEnv(CatalogueEnv):
    """Base class of the adapters of environments that have a time limit of their own.

    ``begin_episode`` sets ``timed_out`` to false, and ``act`` to true when the limit is reached; the step is then truncated.
    """

    __slots__ = ("timed_out",)

    timed_out: bool

    def _finish(
        self,
        observation: Observation,
        reward: float,
        last: Outcome,
        valid: bool,
        effective: bool,
        action: object = None,
        outcomes: Sequence[Outcome] = (),
    ) -> tuple[Observation, float, bool, bool, Info]:
        result = super()._finish(observation, reward, last, valid, effective, action, outcomes)
        if not self.timed_out:
            return result
        self._ended = True
        observation, reward, terminated, _, info = result
        return observation, reward, terminated, not terminated, info


Adapter = TypeVar("Adapter", bound=CatalogueEnv)


def adapter_class(base: type[Adapter], spec: EnvSpec, **attributes: Any) -> type[Adapter]:
    """The class of one environment of a family.

    Args:
        base: The family's adapter.
        spec: The environment's row in the catalogue.
        attributes: What else the class has.
    """
    short = spec.name.rpartition("/")[2]
    family = spec.family
    name = "".join(part.capitalize() if part.islower() else part for part in _words(short)) + "Env"
    return type(
        name,
        (base,),
        {
            "__doc__": f"{spec.description}\n\n{base.__doc__}",
            "__module__": base.__module__,
            "__slots__": (),
            "env_name": spec.name,
            "row": spec,
            "execution": execution_of(spec),
            "code_version": "" if family is None else f"{family.distribution} {family.version}",
            **attributes,
        },
    )


def execution_of(spec: EnvSpec) -> Execution:
    """``inline`` if the most expensive call takes less than 20 ms, else ``compute``."""
    return "inline" if spec.costs is not None and spec.costs.highest_ms <= MAX_INLINE_MS else "compute"


def _words(short: str) -> list[str]:
    return "".join(character if character.isalnum() else " " for character in short).split()
