"""Episodes for trainers that step without an event loop."""

from __future__ import annotations

from collections.abc import Mapping

from verl_agent_env.integrations.rollout.clients import process_client
from verl_agent_env.integrations.rollout.episode import Episode
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.types import Action, Observation, StepResult


class BlockingEpisode:
    """A blocking :class:`Episode`, on the client that all episodes of the process share."""

    def __init__(self, spec: EpisodeSpec, options: RolloutOptions) -> None:
        self._client = process_client(options)
        self._episode = Episode(self._client.remote, spec, options)

    def begin(self) -> Observation:
        """Call :meth:`Episode.begin` and wait."""
        return self._client.wait(self._episode.begin())

    def step(self, action: Action) -> StepResult:
        """Call :meth:`Episode.step` and wait."""
        return self._client.wait(self._episode.step(action))

    def close(self) -> None:
        """Call :meth:`Episode.close` and wait."""
        self._client.wait(self._episode.close())

    @property
    def reward(self) -> float:
        """Sum of the rewards so far."""
        return self._episode.reward

    @property
    def is_over(self) -> bool:
        """True if the environment has ended the episode."""
        return self._episode.is_over

    @property
    def last(self) -> StepResult | None:
        """Result of the last step; None before the first one."""
        return self._episode.last

    def metrics(self) -> Mapping[str, float]:
        """Call :meth:`Episode.metrics`."""
        return self._episode.metrics()
