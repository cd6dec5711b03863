"""Thousands of Gymnasium environments on a server, stepped by batch calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from verl_agent_env.client.async_client import results_of
from verl_agent_env.client.async_env import NOT_COPIED
from verl_agent_env.client.calls import ResetResult, TaskLike
from verl_agent_env.client.encoding import seed_of
from verl_agent_env.client.pictures import RENDER_MODES, Picture, picture_of, render_mode_of
from verl_agent_env.client.spaces import RepeatedSpace, action_space_of
from verl_agent_env.client.sync_client import Env, EnvClient
from verl_agent_env.envs.spaces import ObservationSpace
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.types import Action, Info, Observation, StepResult

T = TypeVar("T")
_BATCHED = frozenset({"reset", "step", "close"})
"""Methods whose calls share requests."""
_SPACES = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
Observations = tuple[Observation, ...]
Bools = npt.NDArray[np.bool_]


class RemoteVectorEnv(VectorEnv[Observations, Sequence[Action], npt.NDArray[Any]]):
    """A Gymnasium vector environment of ``num_envs`` environments of one kind.

    Observations are a tuple, rewards float64, terminations and truncations boolean arrays of length ``num_envs``.
    ``infos`` has an array for each key, and under the key with a leading ``_`` the mask of the environments that have it.
    ``autoreset_mode`` is one of :class:`gymnasium.vector.AutoresetMode`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        env_name: str = "",
        num_envs: int | None = None,
        *,
        token: str | None = None,
        client: EnvClient | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        tasks: Sequence[TaskLike] | None = None,
        render_mode: str | None = None,
        env_kwargs: dict[str, Any] | None = None,
        **more_kwargs: Any,
    ) -> None:
        """Make all environments on the server.

        Args:
            url: URL of the server.
            env_name: Registered name, or a short one.
            num_envs: Number of environments; as many as there are tasks, or 1, if not given.
            token: Bearer token, if the server asks for one.
            client: Client to use; it is not closed with the environments.
            autoreset_mode: When an environment is reset after the end of an episode.
            tasks: What the first episode of each environment is, as ``("train", 7)``.
            render_mode: What :meth:`render` gives of each environment: ``ansi``, ``rgb_array`` or ``svg``.
            env_kwargs: Keyword arguments of each environment.
            **more_kwargs: More of them.

        Raises:
            ValueError: The number of tasks or environments is wrong, a task is none, or the render mode is unknown.
            VerlAgentEnvError: One of the environments could not be created; then all are closed.
        """
        if num_envs is None:
            num_envs = 1 if tasks is None else len(tasks)
        if tasks is not None and len(tasks) != num_envs:
            raise ValueError(f"there are {len(tasks)} tasks for {num_envs} environments")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        self.num_envs = num_envs
        self.render_mode = render_mode_of(render_mode)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": list(RENDER_MODES)}
        self._owns_client = client is None
        self._client = client or EnvClient(url, token=token)
        arguments = {**(env_kwargs or {}), **more_kwargs}
        self._envs: list[Env] = []
        try:
            seeds = [None] * num_envs if tasks is None else []
            made = self._client.make_many(env_name, seeds, tasks=tasks or (), env_kwargs=arguments)
            self._envs = [env for env in made if isinstance(env, Env)]
            _raise_first_error(made)
            one = self._envs[0]
            self.single_action_space = action_space_of(one.tools(), parallel=one.allow_parallel_tool_call())
        except BaseException:
            self.close()
            raise
        self.single_observation_space = ObservationSpace()
        self.observation_space = RepeatedSpace(self.single_observation_space, num_envs)
        self.action_space = RepeatedSpace(self.single_action_space, num_envs)
        self._observations: list[Observation] = [[] for _ in range(num_envs)]
        self._ended: Bools = np.zeros(num_envs, dtype=np.bool_)

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_COPIED)

    @property
    def env_ids(self) -> list[str]:
        """Ids of the environments on the server."""
        return [env.env_id for env in self._envs]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in all environments, or in those of ``options["reset_mask"]``.

        Args:
            seed: Seed of the first environment, to which the others add their index; or one seed for each.
            options: ``reset_mask`` is a boolean array of length ``num_envs``; the others are those of each environment.

        Raises:
            ValueError: The number of seeds is wrong, or the mask is invalid.
            InvalidRequestError: The seed is none.
            InvalidEnvArgumentsError: An environment does not take the options.
        """
        seeds: list[int | None]
        if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
            seeds = list(seed)
        else:
            first = seed_of(seed)
            seeds = [None if first is None else first + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"there are {len(seeds)} seeds for {self.num_envs} environments")
        mask, options = self._mask_of(options)
        infos: list[Info | None] = [None] * self.num_envs
        positions = np.flatnonzero(mask).tolist()
        self._reset(positions, [seeds[position] for position in positions], infos, options)
        return tuple(self._observations), self._columns(infos)

    def step(
        self, actions: Sequence[Action]
    ) -> tuple[Observations, npt.NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """Carry out one action in each environment.

        Raises:
            ValueError: The number of actions is wrong, or an episode is over while autoreset is disabled.
            VerlAgentEnvError: Error of the first environment that failed; the others were stepped.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"there are {len(actions)} actions for {self.num_envs} environments")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise ValueError(
                f"the episode of environment {int(np.flatnonzero(self._ended)[0])} is over: reset it first"
            )
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        infos: list[Info | None] = [None] * self.num_envs
        # Those whose episode ended in the last step take no action in this one.
        begun = np.flatnonzero(self._ended).tolist()
        stepped = np.flatnonzero(~self._ended).tolist()
        results = self._client.step_batch(
            [self._envs[position] for position in stepped], [actions[position] for position in stepped]
        )
        for position, result in zip(stepped, _raise_first_error(results), strict=True):
            self._observations[position] = result.observation
            rewards[position] = result.reward
            terminations[position] = result.terminated
            truncations[position] = result.truncated
            infos[position] = result.info
        self._reset(begun, [None] * len(begun), infos)
        self._ended = terminations | truncations
        final: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._ended.any():
            final = self._begin_again(infos)
        return (
            tuple(self._observations),
            rewards,
            terminations,
            truncations,
            {**self._columns(infos), **final},
        )

    def render(self) -> tuple[Picture, ...] | None:
        """Return a picture of each environment in ``render_mode``."""
        mode = self.render_mode
        return None if mode is None else tuple(picture_of(env, mode) for env in self._envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each environment with the same arguments, all at the same time, or read an attribute of each.

        Args:
            name: Public method or attribute of :class:`verl_agent_env.client.Env`, as ``task_prompt``, ``state`` or ``env_id``.
                As of a Gymnasium environment are ``render`` (in ``render_mode``), ``render_mode``, ``action_space`` and
                ``observation_space``.
            *args: Positional arguments of the method.
            **kwargs: Keyword arguments of the method.

        Returns:
            ``num_envs`` results.

        Raises:
            AttributeError: The environments do not offer it; nothing was called.
            VerlAgentEnvError: Error of the first environment that failed; the others were called.
        """
        if name == "render" and not args and not kwargs:
            return self.render() or (None,) * self.num_envs
        if name == "render_mode" or name in _SPACES:
            return (getattr(self, _SPACES.get(name, name)),) * self.num_envs
        offered = None if name.startswith("_") else vars(Env).get(name)
        if offered is None:
            raise AttributeError(f"environments on a server have no attribute {name!r}", name=name, obj=self)
        if isinstance(offered, property):
            return tuple(getattr(env, name) for env in self._envs)
        if name in _BATCHED:
            kwargs = {**kwargs, "micro_batching": True}
        results = self._client.wait(
            results_of(getattr(env.remote, name)(*args, **kwargs) for env in self._envs)
        )
        for position, result in enumerate(results):
            if isinstance(result, StepResult):
                self._observations[position] = result.observation
                self._ended[position] = result.terminated or result.truncated
            elif name == "reset" and not isinstance(result, VerlAgentEnvError):
                self._observations[position], self._ended[position] = result[0], False
        return tuple(_raise_first_error(results))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Call :meth:`call` without arguments, as Gymnasium's vectors do."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> NoReturn:
        """Change nothing.

        Raises:
            AttributeError: Always: the attributes of an environment on a server are given with its creation.
        """
        raise AttributeError(
            f"{name!r} cannot be set: give it in env_kwargs when the environments are made, or in the options of reset()",
            name=name,
            obj=self,
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close all environments on the server."""
        try:
            self._client.close_batch(self._envs)
        finally:
            if self._owns_client:
                self._client.close()

    def _begin_again(self, infos: list[Info | None]) -> dict[str, Any]:
        """Reset the environments whose episode ended; return their final observations and infos."""
        positions = np.flatnonzero(self._ended).tolist()
        final_observations = np.full(self.num_envs, None, dtype=object)
        final_infos: list[Info | None] = [None] * self.num_envs
        for position in positions:
            final_observations[position] = self._observations[position]
            final_infos[position] = infos[position]
        mask = self._ended.copy()
        self._reset(positions, [None] * len(positions), infos)
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        return {
            "final_obs": final_observations,
            "_final_obs": mask,
            "final_info": self._columns(final_infos),
            "_final_info": mask.copy(),
        }

    def _reset(
        self,
        positions: list[int],
        seeds: list[int | None],
        infos: list[Info | None],
        options: dict[str, Any] | None = None,
    ) -> None:
        if not positions:
            return
        results: list[ResetResult | VerlAgentEnvError] = self._client.reset_batch(
            [self._envs[position] for position in positions], seeds, options=options
        )
        for position, begun in zip(positions, _raise_first_error(results), strict=True):
            self._observations[position], infos[position] = begun
            self._ended[position] = False

    def _mask_of(self, options: dict[str, Any] | None) -> tuple[Bools, dict[str, Any] | None]:
        """Return which environments are reset, and the options that they get."""
        if not options or "reset_mask" not in options:
            return np.ones(self.num_envs, dtype=np.bool_), options
        mask = np.asarray(options["reset_mask"])
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"reset_mask must be {self.num_envs} truth values, one of them true at least")
        return mask, {key: value for key, value in options.items() if key != "reset_mask"} or None

    def _columns(self, infos: Sequence[Info | None]) -> dict[str, Any]:
        """Return an array for each key, and the mask of the environments that have it."""
        columns: dict[str, Any] = {}
        keys = dict.fromkeys(key for info in infos if info for key in info)
        for key in keys:
            has = np.fromiter((info is not None and key in info for info in infos), np.bool_, self.num_envs)
            values = [info[key] if info is not None and key in info else None for info in infos]
            columns[key], columns[f"_{key}"] = _column_of(values, has), has
        return columns


def _column_of(values: list[Any], has: Bools) -> npt.NDArray[Any]:
    """Return values as an array of numbers or booleans, if all of them are of one such type, else of objects."""
    kinds = {type(value) for value, present in zip(values, has.tolist(), strict=True) if present}
    if len(kinds) == 1 and kinds <= {bool, int, float}:
        (kind,) = kinds
        try:
            return np.array([kind() if value is None else value for value in values], dtype=kind)
        except OverflowError:
            # A seed may need more than 64 bits with a sign.
            pass
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _raise_first_error(results: Iterable[T | VerlAgentEnvError]) -> list[T]:
    """Return the results; raise the first error among them."""
    demanded: list[T] = []
    for result in results:
        if isinstance(result, VerlAgentEnvError):
            raise result
        demanded.append(result)
    return demanded


__all__ = ["AutoresetMode", "RemoteVectorEnv", "StepResult"]
