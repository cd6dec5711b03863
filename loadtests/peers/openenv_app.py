"""OpenEnv's own server around the frozen lake: ``uvicorn loadtests.peers.openenv_app:app``, where ``openenv`` is installed."""

from __future__ import annotations

from typing import Any

from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

from loadtests.peers.lake import new_lake, text_of

_MAX_SESSIONS = 4096


class ChatAction(Action):
    """What a model says."""

    text: str


class ChatObservation(Observation):
    """What it is answered."""

    text: str
    messages: list[dict[str, Any]]


class LakeEnvironment(Environment):
    """The frozen lake, as OpenEnv's server has environments."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._env = new_lake()
        self._steps = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> ChatObservation:
        """Begin an episode."""
        observation, info = self._env.reset(seed=seed)
        self._steps = 0
        return ChatObservation(text=text_of(observation), messages=observation, metadata=info)

    def step(self, action: ChatAction, timeout_s: float | None = None, **_: Any) -> ChatObservation:
        """Carry out an action."""
        observation, reward, terminated, truncated, info = self._env.step(action.text)
        self._steps += 1
        return ChatObservation(
            text=text_of(observation),
            messages=observation,
            reward=reward,
            done=terminated or truncated,
            metadata={**info, "terminated": terminated, "truncated": truncated},
        )

    @property
    def state(self) -> State:
        """Tell where the episode stands."""
        return State(step_count=self._steps)


app = create_fastapi_app(LakeEnvironment, ChatAction, ChatObservation, max_concurrent_envs=_MAX_SESSIONS)
