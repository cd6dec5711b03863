"""A registered name: where the class is found that it stands for, and what can be told of it without importing that."""

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
    """Of the dearest of several resets, the first one of a process left out."""
    step_ms: float
    """Of the dearest of several steps."""
    load_ms: float = 0.0
    """Of the first reset in a process, beyond that of a later one: data that are read once."""

    @property
    def highest_ms(self) -> float:
        """Of the dearest call."""
        return max(self.reset_ms + self.load_ms, self.step_ms)


@dataclass(frozen=True)
class EnvSpec:
    """A registered name, and where what it stands for is found."""

    name: str
    """``namespace/short_name-vN``."""
    entry_point: str
    """``module:Class``."""
    presets: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that differ from the class's defaults."""
    source: str = ""
    """The project whose variant a preset is, and in which version."""
    description: str = ""
    """One sentence; empty where only the class says it."""
    tags: tuple[str, ...] = ()
    """Words to filter by, such as ``single-turn``."""
    costs: Costs | None = None
    """Time that its calls take with the default arguments; ``None`` where nobody measured."""
    family: Family | None = None
    """The family of the catalogue that it belongs to; ``None`` for an environment of this project or of an entry point."""
