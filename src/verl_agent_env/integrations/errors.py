"""Errors of the integrations; each says in one sentence what to do.

::

    VerlAgentEnvError
    ├── CurationError           the data asked for cannot be made
    ├── TrainingSetupError      something has to be put right before the training can start
    │   └── VerlVersionError    verl is missing, or of a version that this code is not made for
    └── EpisodeFailedError      an episode could not be played to its end; nothing of it is to be learned from
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verl_agent_env.errors import VerlAgentEnvError


@dataclass(eq=False)
class _SaidError(VerlAgentEnvError):
    """An error whose sentence is written where it is raised."""

    reason: str = ""

    @property
    def detail(self) -> str:
        return self.reason or self.title


@dataclass(eq=False)
class CurationError(_SaidError):
    """The rows that were asked for cannot be made, or not be written."""

    title = "The data cannot be made"
    remarks: tuple[Any, ...] = ()
    """What became of problems of one's own so far: a ``Remark`` each."""


@dataclass(eq=False)
class TrainingSetupError(_SaidError):
    """The training cannot work as it is set up."""

    title = "The training is not set up right"


@dataclass(eq=False)
class VerlVersionError(TrainingSetupError):
    """verl is not there, or of another version."""

    title = "verl has the wrong version"


@dataclass(eq=False)
class EpisodeFailedError(VerlAgentEnvError):
    """The environment failed for good, although everything was tried; the sample is lost, and no reward is known.

    verl drops a sample that ends like this and trains on the rest of its group.
    """

    title = "An episode failed"
    env_name: str = ""
    seed: int = 0
    attempts: int = 0
    reason: str = ""

    @property
    def detail(self) -> str:
        return (
            f"The episode of '{self.env_name}' with seed {self.seed} could not be played, in {self.attempts} attempts; "
            f"the last one ended with: {self.reason} The sample is left out of the training."
        )
