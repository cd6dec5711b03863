"""A Gymnasium environment on a server."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import gymnasium

from verl_agent_env.client.async_env import NOT_COPIED
from verl_agent_env.client.calls import TaskLike
from verl_agent_env.client.encoding import seed_of
from verl_agent_env.client.pictures import RENDER_MODES, Picture, picture_of, render_mode_of
from verl_agent_env.client.spaces import action_space_of
from verl_agent_env.client.sync_client import Env, EnvClient
from verl_agent_env.envs.spaces import ObservationSpace
from verl_agent_env.types import Action, Info, Observation


class RemoteEnv(gymnasium.Env[Observation, Action]):
    """A Gymnasium environment that runs on a server.

    ``gymnasium.make("verl_env/remote-v0", url="http://127.0.0.1:8000", env_name="sokoban")`` creates one, too.

    ### Action Space

    As of the environment on the server: an assistant message with tool calls, a list that holds some, or raw text.

    ### Observation

    A list of chat messages.

    ### Rewards and Episode End

    As of the environment on the server.

    ### Arguments

    ``url`` and ``token`` of the server, or a ``client`` that several environments share; ``env_name``; ``task``, what the first
    episode is, as ``("train", 7)``; ``env_kwargs`` and any other keyword arguments go to the environment.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        env_name: str = "",
        *,
        token: str | None = None,
        client: EnvClient | None = None,
        task: TaskLike | None = None,
        env_kwargs: dict[str, Any] | None = None,
        render_mode: str | None = None,
        **more_kwargs: Any,
    ) -> None:
        """Make the environment on the server.

        Raises:
            ValueError: The render mode is unknown, or the task is none.
            VerlAgentEnvError: The environment could not be created.
        """
        self.render_mode = render_mode_of(render_mode)
        self._owns_client = client is None
        self._client = client or EnvClient(url, token=token)
        self._closed = False
        try:
            self._env: Env = self._client.make(
                env_name, task=task, env_kwargs={**(env_kwargs or {}), **more_kwargs}
            )
            self.observation_space = ObservationSpace()
            self.action_space = action_space_of(
                self._env.tools(), parallel=self._env.allow_parallel_tool_call()
            )
        except BaseException:
            if self._owns_client:
                self._client.close()
            raise

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_COPIED)

    @property
    def env_id(self) -> str:
        """Id of the environment on the server."""
        return self._env.env_id

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode with this seed, or the next one.

        Raises:
            InvalidRequestError: The seed is none, or the options cannot be sent; the episode is unchanged.
            VerlAgentEnvError: The other errors of :meth:`verl_agent_env.client.AsyncEnv.reset`.
        """
        seed = seed_of(seed)
        super().reset(seed=seed)
        observation, info = self._env.reset(seed=seed, options=options)
        return observation, info

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out one action, exactly once.

        Raises:
            VerlAgentEnvError: The errors of :meth:`verl_agent_env.client.AsyncEnv.step`.
        """
        return tuple(self._env.step(action))  # type: ignore[return-value]

    def render(self) -> Picture | None:
        """Return a picture in ``render_mode``: text, or an array (height, width, 3) of uint8 for ``rgb_array``."""
        return None if self.render_mode is None else picture_of(self._env, self.render_mode)

    def task_prompt(self) -> str:
        """Return the task prompt: the task, and how to act."""
        return self._env.task_prompt()

    def close(self) -> None:
        """Close the environment on the server; further calls have no effect."""
        if self._closed:
            return
        self._closed = True
        try:
            self._env.close()
        finally:
            if self._owns_client:
                self._client.close()
