"""An episode in an environment on the server, which is recreated if the server loses it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from verl_agent_env.client import AsyncEnv, AsyncEnvClient, ServerUnreachableError
from verl_agent_env.errors import EpisodeEndedError, RequestError, VerlAgentEnvError
from verl_agent_env.integrations.errors import DivergedError, EpisodeFailedError
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.types import Action, Info, Observation, StepResult

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Episode:
    """One episode in an environment on the server.

    The client retries after lost connections, errors of proxies and moves between workers. An environment that is lost
    nevertheless (its worker died, and episodes are not durable) is recreated with the same seed, and the same actions are
    played; if all results are equal, the conversation continues.
    """

    def __init__(self, client: AsyncEnvClient, spec: EpisodeSpec, options: RolloutOptions) -> None:
        self._client = client
        self._spec = spec
        self._options = options
        self._env: AsyncEnv | None = None
        self._first: Observation | None = None
        self._first_info: Info = {}
        self._past: list[tuple[Action, StepResult]] = []
        self.attempts = 0
        """Number of environments that were lost."""
        self.waited_s = 0.0
        """Seconds spent in calls on the environment."""
        self._retries = 0

    async def begin(self) -> Observation:
        """Create the environment and return the first observation.

        Raises:
            RequestError: The environment or its arguments are unknown.
            EpisodeFailedError: The server cannot be reached.
        """
        return await self._retry(self._first_observation)

    async def tools(self) -> list[dict[str, object]]:
        """Return the tools in OpenAI's schema, for rows that do not have them."""
        return await self._retry(lambda env: env.tools())

    async def step(self, action: Action) -> StepResult:
        """Carry out one action.

        Raises:
            EpisodeEndedError: The environment has ended the episode.
            EpisodeFailedError: The environment is lost after all retries.
            DivergedError: The recreated environment gave other results.
        """
        result = await self._retry(lambda env: env.step(action))
        self._past.append((action, result))
        return result

    async def seat_view(self, seat: int) -> dict[str, Any]:
        """Return what a seat sees now; see :meth:`~verl_agent_env.client.AsyncEnv.seat_view`."""
        return await self._retry(lambda env: env.seat_view(seat))

    async def start_over(self) -> Observation:
        """Give up what was played, and begin the episode in another environment."""
        await self.close()
        self._first, self._past = None, []
        return await self.begin()

    async def close(self) -> None:
        """Close the environment; if that fails, the server closes it once its idle time is over."""
        env, self._env = self._env, None
        if env is not None:
            self._retries += env.num_retries
            try:
                await env.close()
            except VerlAgentEnvError as error:
                logger.warning("environment %s could not be closed: %s", env.env_id, error)

    @property
    def num_retries(self) -> int:
        """Number of retries of the client, in lost environments too."""
        return self._retries + (0 if self._env is None else self._env.num_retries)

    @property
    def num_seats(self) -> int:
        """Number of seats of the episode that has begun; 1 for an environment without seats."""
        return int(self._first_info.get("num_seats", 1))

    @property
    def turn(self) -> list[int]:
        """Seats that are to act; none after the end, nor in an environment without seats."""
        info = self._first_info if self.last is None else self.last.info
        return list(info.get("turn", ()))

    @property
    def last(self) -> StepResult | None:
        """Result of the last step; None before the first one."""
        return self._past[-1][1] if self._past else None

    @property
    def reward(self) -> float:
        """Sum of the rewards so far."""
        return float(sum(result.reward for _, result in self._past))

    @property
    def is_over(self) -> bool:
        """True if the environment has ended the episode."""
        return self.last is not None and self.last.is_over

    @property
    def num_turns(self) -> int:
        """Number of actions that were carried out."""
        return len(self._past)

    def metrics(self) -> dict[str, float]:
        """Return what trainers show of an episode: reward, success, turns, and the share of valid ones."""
        valid = sum(bool(result.info.get("action_is_valid", True)) for _, result in self._past)
        return {
            "reward": self.reward,
            "success": float(self.last is not None and bool(self.last.info.get("success", False))),
            "turns": float(self.num_turns),
            "valid_turns": valid / self.num_turns if self.num_turns else 0.0,
        }

    async def _retry(self, call: Callable[[AsyncEnv], Awaitable[T]]) -> T:
        began = time.perf_counter()
        try:
            while True:
                try:
                    return await call(self._env or await self._make())
                except (RequestError, EpisodeEndedError, DivergedError):
                    # The caller is wrong, or the environment that was made anew: a retry does not help.
                    raise
                except VerlAgentEnvError as error:
                    await self._discard(error)
        finally:
            self.waited_s += time.perf_counter() - began

    async def _discard(self, error: VerlAgentEnvError) -> None:
        """Discard a lost environment; the next call recreates it.

        Raises:
            EpisodeFailedError: All attempts are used up.
        """
        self.attempts += 1
        spec = self._spec
        # Retryable errors were retried until the deadline.
        if (
            error.retryable
            or isinstance(error, ServerUnreachableError)
            or self.attempts >= self._options.max_attempts
        ):
            raise EpisodeFailedError(spec.env_name, spec.seed, self.attempts, str(error)) from error
        logger.warning("an environment of '%s' was lost; recreating it: %s", spec.env_name, error)
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
        # Set before its creation, so that it is closed if the creation fails.
        self._env = env
        observation, info = await env.reset()
        if self._first is None:
            self._first, self._first_info = observation, info
        elif observation != self._first:
            raise self._diverged()
        for action, before in self._past:
            if await env.step(action) != before:
                raise self._diverged()
        return env

    def _diverged(self) -> DivergedError:
        return DivergedError(self._spec.env_name, self._spec.seed, self.attempts)

    async def _first_observation(self, _: AsyncEnv) -> Observation:
        return self._first or []
