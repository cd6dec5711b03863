"""Registered names: the location of the class, and facts that are known without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_agent_env.envs.catalogue.family import Family


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor time of an environment's calls with its default arguments, in milliseconds, on one core of 2.1 GHz or so."""

    reset_ms: float
    """Most expensive of several resets, without the first one of a process."""
    step_ms: float
    """Most expensive of several steps."""
    load_ms: float = 0.0
    """Additional cost of the first reset of a process, which loads data."""

    @property
    def highest_ms(self) -> float:
        """Cost of the most expensive call."""
        return max(self.reset_ms + self.load_ms, self.step_ms)


@dataclass(frozen=True)
class EnvSpec:
    """Registered name and the location of its class."""

    name: str
    """``namespace/short_name-vN``."""
    entry_point: str
    """``module:Class``."""
    presets: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that differ from the class's defaults."""
    source: str = ""
    """Project and version that a preset reproduces."""
    description: str = ""
    """Description in one sentence; empty if only the class has one."""
    tags: tuple[str, ...] = ()
    """Words to filter by, such as ``single-turn``."""
    costs: Costs | None = None
    """Time of its calls with the default arguments; ``None`` if not measured."""
    family: Family | None = None
    """Family of the catalogue; ``None`` for an environment of this project or of an entry point."""
