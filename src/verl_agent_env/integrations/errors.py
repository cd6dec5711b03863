"""Errors of the integrations, each with a message that says what to do.

::

    VerlAgentEnvError
    ├── CurationError           the data set cannot be made
    ├── TrainingSetupError      the configuration has to be corrected before the training can start
    │   └── FrameworkVersionError     a trainer's package is missing, or of an unsupported version
    │       └── VerlVersionError      verl is
    └── EpisodeFailedError      an episode could not be played to its end, and gives no training sample
        └── DivergedError       the environment that was made anew gave other results
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verl_agent_env.errors import VerlAgentEnvError


@dataclass(eq=False)
class _SaidError(VerlAgentEnvError):
    """An error whose message is an argument."""

    reason: str = ""

    @property
    def detail(self) -> str:
        return self.reason or self.title


@dataclass(eq=False)
class CurationError(_SaidError):
    """The requested rows cannot be made or written."""

    title = "The data cannot be made"
    remarks: tuple[Any, ...] = ()
    """What became of problems of one's own so far: a ``Remark`` each."""


@dataclass(eq=False)
class TrainingSetupError(_SaidError):
    """The training is configured wrongly."""

    title = "The training is not set up right"


@dataclass(eq=False)
class FrameworkVersionError(TrainingSetupError):
    """The package of a trainer is missing, or of an unsupported version."""

    title = "A package is missing or has the wrong version"


@dataclass(eq=False)
class VerlVersionError(FrameworkVersionError):
    """verl is missing, or of an unsupported version."""

    title = "verl has the wrong version"


@dataclass(eq=False)
class EpisodeFailedError(VerlAgentEnvError):
    """The environment is lost after all retries, so the sample has no reward.

    verl drops such a sample and trains on the rest of its group; trainers that cannot do so stop with this error.
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
            f"the last one ended with: {self.reason} The sample is left out of the training where the trainer can do so."
        )


@dataclass(eq=False)
class DivergedError(EpisodeFailedError):
    """The environment that was made anew gave other results, so the conversation so far does not fit it."""

    reason: str = "the environment that was made anew gave other results."
