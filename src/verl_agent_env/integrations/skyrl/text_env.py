"""The environment of ``skyrl_gym``: plays the episode of a row on a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.blocking import BlockingEpisode
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.messages import content_text
from verl_agent_env.messages.content import shows_picture, well_formed
from verl_agent_env.types import Message, Observation


class ServerTextEnv(BaseTextEnv):  # type: ignore[misc]
    """One episode on a server, from SkyRL's ``init`` to its ``close``; steps of all threads share requests.

    An error stops the training: SkyRL cannot leave a single sample out.
    """

    def __init__(
        self,
        env_config: Any = None,
        extras: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare the episode of a row, without calling the server.

        Args:
            env_config: Options of :class:`RolloutOptions`: a mapping, OmegaConf's or a data class, as SkyRL has it.
            extras: Columns of the row beside its prompt, and SkyRL's ``max_turns``.
            options: Options that :func:`register` was given; those of ``env_config`` take precedence.

        Raises:
            TrainingSetupError: The row does not define an episode, or an option is wrong.
        """
        super().__init__()
        columns = dict(extras or {})
        self._options = RolloutOptions.from_mapping(options, _mapping(env_config)).located()
        self._spec = EpisodeSpec.from_columns(columns)
        limits = (columns.get("max_turns"), self._options.max_turns)
        self.max_turns = min((int(limit) for limit in limits if limit), default=None)
        self._episode = BlockingEpisode(self._spec, self._options)

    def init(self, prompt: list[Message]) -> tuple[list[Message], dict[str, Any]]:
        """Begin the episode, and return the conversation so far: the prompt of the row, then the first observation.

        An observation that ends the prompt already, as in curated rows, is not repeated. A prompt without a system message
        gets that of the row, or of the options.

        Raises:
            RequestError: The server does not make the environment as the row wants it.
            EpisodeFailedError: The server cannot be reached.
        """
        observation = self._told(self._episode.begin())
        conversation = [dict(message) for message in prompt]
        said = [(message.get("role"), content_text(message.get("content"))) for message in conversation]
        seen = [(message["role"], message["content"]) for message in observation]
        if said[-len(seen) :] != seen:
            conversation += observation
        system = self._spec.system_prompt or self._options.system_prompt
        if system and not any(role == "system" for role, _ in said):
            conversation.insert(0, {"role": "system", "content": system})
        return conversation, {"env_name": self._spec.env_name, "seed": self._spec.seed}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Carry out the model's text.

        Raises:
            EpisodeFailedError: The environment is lost after all retries.
        """
        self.turns += 1
        result = self._episode.step(well_formed(action))
        spent = self.max_turns is not None and self.turns >= self.max_turns
        return BaseTextEnvStepOutput(
            observations=self._told(result.observation),
            reward=float(result.reward),
            done=result.is_over or spent,
            metadata={**result.info, "terminated": result.terminated, "truncated": result.truncated},
        )

    def close(self) -> None:
        """Close the environment on the server; a second time does nothing."""
        self._episode.close()

    def get_metrics(self) -> dict[str, float]:
        """Return reward, success, turns and the share of valid turns, of which SkyRL logs the averages."""
        return dict(self._episode.metrics())

    def _told(self, observation: Observation) -> list[Message]:
        """Return messages of role and text alone, as SkyRL's chat templates take them."""
        if any(map(shows_picture, observation)):
            raise TrainingSetupError(
                f"'{self._spec.env_name}' shows pictures, and SkyRL's conversations are text: "
                "set observation_mode='text' in its env_kwargs."
            )
        return [
            {"role": message["role"], "content": content_text(message["content"])} for message in observation
        ]


def _mapping(env_config: Any) -> Mapping[str, Any] | None:
    """Return the options in one of SkyRL's configuration objects."""
    if env_config is None or isinstance(env_config, Mapping):
        # OmegaConf's DictConfig is one.
        return env_config
    if dataclasses.is_dataclass(env_config) and not isinstance(env_config, type):
        return dataclasses.asdict(env_config)
    raise TrainingSetupError(
        f"env_config is a {type(env_config).__name__}: give a mapping or a data class with options, such as url."
    )
