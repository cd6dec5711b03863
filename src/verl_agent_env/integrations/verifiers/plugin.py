"""The plugin of verifiers: tasks are seeds of one environment, and the server plays the user."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf
from pydantic import Field
from verifiers.v1.harnesses.null import NullHarnessConfig

from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.integrations.rollout.episode import Episode
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.messages import content_text
from verl_agent_env.messages.content import shows_picture, text_part, well_formed
from verl_agent_env.types import Observation


class SeedData(vf.TaskData):  # type: ignore[misc]
    """An episode: equal ones are equal in all rollouts of a task."""

    env_name: str
    seed: int
    env_kwargs: dict[str, Any]


class VerifiersTask(vf.Task[SeedData]):  # type: ignore[misc]
    """An episode, whose environment opens the conversation and scores it."""


class VerifiersTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """The flags ``--env.taskset.*``."""

    env_name: str = "sokoban"
    """Registered name of the environment, or a short one."""
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment."""
    first_seed: int = Field(0, ge=0)
    """Seed of the first task; each further task has the next one."""


class VerifiersTaskset(vf.Taskset[VerifiersTask, VerifiersTasksetConfig]):  # type: ignore[misc]
    """Tasks without end, a seed each; ``-n`` says how many are taken."""

    INFINITE = True

    def load(self) -> Iterator[VerifiersTask]:
        """Yield the tasks."""
        config = self.config
        for seed in itertools.count(config.first_seed):
            data = SeedData(
                name=f"{config.env_name}#{seed}",
                prompt=None,
                env_name=config.env_name,
                seed=seed,
                env_kwargs=config.env_kwargs,
            )
            yield VerifiersTask(data, config.task)


class VerifiersEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """The flags ``--env.*``."""

    player: vf.AgentConfig = vf.AgentConfig(harness=NullHarnessConfig(id="null"))
    """The model, without a shell: its answers are its actions."""
    url: str = RolloutOptions.url
    """URL of the server, or of the cluster behind nginx."""
    token_variable: str = ""
    """Name of the variable with the bearer token, which must not be written to the run's configuration; none if empty."""
    deadline_s: float = RolloutOptions.deadline_s
    """Seconds of retries of one call."""
    ttl_s: float | None = None
    """Seconds without a call after which the server closes an environment; the server's own if not given."""
    max_attempts: int = RolloutOptions.max_attempts
    """Number of times that a lost environment is recreated before the rollout fails."""


class VerifiersEnv(vf.Env[VerifiersEnvConfig]):  # type: ignore[misc]
    """Plays each task on the server; its reward is the sum of the episode's rewards."""

    async def start(self) -> None:
        """Create the client that all rollouts share.

        Raises:
            TrainingSetupError: An option is out of its range.
        """
        config = self.config
        self._options = RolloutOptions(
            url=config.url,
            token=os.environ.get(config.token_variable),
            deadline_s=config.deadline_s,
            ttl_s=config.ttl_s,
            max_attempts=config.max_attempts,
        )
        self._client = AsyncEnvClient(**self._options.connection())

    async def stop(self) -> None:
        """Close the client, and with it what rollouts left open."""
        client: AsyncEnvClient | None = getattr(self, "_client", None)
        if client is not None:
            await client.close()

    async def run(self, task: VerifiersTask, agents: Any) -> None:
        """Play one episode; the environment speaks as the user.

        Raises:
            RequestError: The server does not make the environment as the task wants it.
            EpisodeFailedError: The environment is lost after all retries; verifiers records the rollout as failed.
        """
        data = task.data
        spec = EpisodeSpec(data.env_name, data.seed, data.env_kwargs, None, None, False, False)
        episode = Episode(self._client, spec, self._options)
        try:
            observation = await episode.begin()
            async with agents.player.interaction(task) as conversation:
                segment = await conversation.turn(_said(observation))
                while not segment.terminated:
                    result = await episode.step(well_formed(segment.last_reply))
                    if result.is_over:
                        break
                    segment = await conversation.turn(_said(result.observation))
            metrics = episode.metrics()
            conversation.trace.record_reward("env_reward", metrics.pop("reward"))
            conversation.trace.record_metrics(metrics)
        finally:
            await episode.close()


def _said(observation: Observation) -> str | list[Any]:
    """Return an observation as one message of the user, with pictures where it has some."""
    if not any(map(shows_picture, observation)):
        return "\n".join(content_text(message["content"]) for message in observation)
    parts: list[dict[str, Any]] = []
    for message in observation:
        content = message["content"]
        parts += [text_part(content)] if isinstance(content, str) else content
    return [vf.UserMessage(content=parts)]
