"""Notes of an episode that goes on, where episodes are kept."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from verl_agent_env.wire.episodes import KeptStep
from verl_agent_env.wire.results import EncodedReset

STEPS_BETWEEN_CHECKS = 64
"""After so many steps it is looked at how large an episode has become; a power of 2."""


class FullSteps(list[KeptStep]):
    """The steps of an episode that takes no more of them."""

    def append(self, step: KeptStep) -> None:
        """Leave the step out."""


class Past(NamedTuple):
    """The part of an episode that another worker saw."""

    beginning: EncodedReset
    steps: list[KeptStep]


class OpenEpisode:
    """Notes of an episode that goes on."""

    __slots__ = ("began_at", "beginning", "first_seq", "past", "steps")

    def __init__(
        self,
        began_at: float,
        beginning: EncodedReset | None,
        steps: list[KeptStep],
        first_seq: int = 0,
    ) -> None:
        self.began_at = began_at
        self.beginning = beginning
        self.steps = steps
        """The steps; their times are by the host's clock."""
        self.first_seq = first_seq
        """Number of the first noted step; above 0 where the environment came from another worker."""
        self.past: asyncio.Task[Past | None] | None = None
        """Plays the steps before it again."""


LEFT_OUT = OpenEpisode(0.0, None, FullSteps())
"""In place of an episode that is not kept, because too many go on."""
