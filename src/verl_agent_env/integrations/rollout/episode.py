"""The environment's side of an episode: played exactly once, and made anew when the server lost it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from verl_agent_env.client import AsyncEnv, AsyncEnvClient, ServerUnreachableError
from verl_agent_env.errors import RequestError, VerlAgentEnvError
from verl_agent_env.integrations.errors import EpisodeFailedError
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.types import Action, Observation, StepResult

logger = logging.getLogger(__name__)

T = TypeVar("T")


class DivergedError(Exception):
    """The environment that was made anew does not go the same way: what was said so far does not fit it."""


class Episode:
    """One episode in an environment on the server.

    A lost connection, a proxy's error or a worker that moves is the client's to mend. An environment that is gone all
    the same (its worker died, and nothing keeps episodes) is made anew with the same seed and taken through the same
    actions; if it answers as before, the conversation goes on as if nothing had happened.
    """

    def __init__(self, client: AsyncEnvClient, spec: EpisodeSpec, options: RolloutOptions) -> None:
        self._client = client
        self._spec = spec
        self._options = options
        self._env: AsyncEnv | None = None
        self._first: Observation | None = None
        self._past: list[tuple[Action, StepResult]] = []
        self.attempts = 0
        """Environments that were lost."""
        self.waited_s = 0.0
        """Seconds spent on the environment."""
        self._retries = 0

    async def begin(self) -> Observation:
        """Make the environment.

        Raises:
            RequestError: There is no such environment, or not with these arguments.
            EpisodeFailedError: The server is away for good.
        """
        return await self._persist(self._first_observation)

    async def tools(self) -> list[dict[str, object]]:
        """What the model may call, in OpenAI's schema, where the row does not say it."""
        return await self._persist(lambda env: env.tools())

    async def step(self, action: Action) -> StepResult:
        """Carry out one action.

        Raises:
            EpisodeFailedError: The environment is lost for good.
            DivergedError: It was made anew, and goes another way.
        """
        result = await self._persist(lambda env: env.step(action))
        self._past.append((action, result))
        return result

    async def close(self) -> None:
        """Close the environment; a server that cannot be told now closes it when it has been idle long enough."""
        env, self._env = self._env, None
        if env is not None:
            self._retries += env.num_retries
            try:
                await env.close()
            except VerlAgentEnvError as error:
                logger.warning("environment %s could not be closed: %s", env.env_id, error)

    @property
    def num_retries(self) -> int:
        """Calls that the client had to make again, in the environments that were lost too."""
        return self._retries + (0 if self._env is None else self._env.num_retries)

    async def _persist(self, call: Callable[[AsyncEnv], Awaitable[T]]) -> T:
        began = time.perf_counter()
        try:
            while True:
                try:
                    return await call(self._env or await self._make())
                except RequestError:
                    # The data or the set-up is wrong: nothing gets better by waiting.
                    raise
                except VerlAgentEnvError as error:
                    await self._lose(error)
        finally:
            self.waited_s += time.perf_counter() - began

    async def _lose(self, error: VerlAgentEnvError) -> None:
        """Note that the environment is lost; the next call makes it anew.

        Raises:
            EpisodeFailedError: It was tried often or long enough.
        """
        self.attempts += 1
        spec = self._spec
        # What can be retried was, until the deadline.
        if (
            error.retryable
            or isinstance(error, ServerUnreachableError)
            or self.attempts >= self._options.max_attempts
        ):
            raise EpisodeFailedError(spec.env_name, spec.seed, self.attempts, str(error)) from error
        logger.warning("an environment of '%s' was lost and is made anew: %s", spec.env_name, error)
        await self.close()

    async def _make(self) -> AsyncEnv:
        spec = self._spec
        env = self._client.make(
            spec.env_name,
            seed=spec.seed,
            env_kwargs=spec.env_kwargs,
            run_id=self._options.run_id,
            ttl_s=self._options.ttl_s,
        )
        # Noted before it is there: what goes wrong on the way is closed too.
        self._env = env
        observation, _ = await env.reset()
        if self._first is None:
            self._first = observation
        elif observation != self._first:
            raise DivergedError
        for action, before in self._past:
            if await env.step(action) != before:
                raise DivergedError
        return env

    async def _first_observation(self, _: AsyncEnv) -> Observation:
        return self._first or []
