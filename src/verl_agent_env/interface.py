"""Environments in this process, by id: the same calls as over HTTP, as plain functions.

    >>> import verl_agent_env.interface as interface
    >>> env_id = interface.initialize_environment("verl_env/frozen_lake-v1", seed=3, env_kwargs={"size": 4})
    >>> observation, info = interface.reset(env_id)
    >>> observation, reward, done, truncated, info = interface.step(env_id, "<action>right</action>")
    >>> (reward, done, truncated, info["action_is_valid"])
    (0.0, False, False, True)
    >>> interface.close_environment(env_id)

The functions may be called from several threads; calls on one environment wait for each other.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from typing import Any

import gymnasium

from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import EnvironmentNotFoundError
from verl_agent_env.messages import Tool, action_schema
from verl_agent_env.types import NUM_SLOTS, Action, Info, Observation, StepResult, new_env_id

__all__ = [
    "allow_parallel_tool_call",
    "close_environment",
    "get_action_space",
    "get_task_prompt",
    "get_tools_schema_anthropic",
    "get_tools_schema_openai",
    "initialize_environment",
    "render",
    "reset",
    "step",
]


class _MadeEnv:
    """A live environment, and the seed that its first reset takes."""

    __slots__ = ("env", "first_seed", "lock")

    def __init__(self, env: gymnasium.Env[Any, Any], first_seed: int | None) -> None:
        self.env = env
        self.first_seed = first_seed
        self.lock = threading.Lock()


_entries: dict[str, _MadeEnv] = {}


def initialize_environment(
    env_name: str, seed: int | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> str:
    """Make an environment.

    Args:
        env_name: Registered name, or a short one such as ``sokoban``.
        seed: Seed of the first episode, for a first ``reset`` that names none.
        env_kwargs: Keyword arguments of the environment.

    Returns:
        Its id, for all later calls.

    Raises:
        UnknownEnvNameError: No such environment; carries suggestions.
        InvalidEnvArgumentsError: An argument is unknown or out of its range; nothing was built.
    """
    kind = default_registry().kind(env_name)
    env = kind.build(kind.validate(env_kwargs or {}))
    env_id = new_env_id(random.randrange(NUM_SLOTS))
    _entries[env_id] = _MadeEnv(env, seed)
    return env_id


def reset(
    env_id: str, seed: int | None = None, options: dict[str, Any] | None = None
) -> tuple[Observation, Info]:
    """Begin an episode; see :meth:`verl_agent_env.envs.base.ChatEnv.reset`.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
        InvalidEnvArgumentsError: The seed or the options are out of range.
    """
    entry = _find(env_id)
    with entry.lock:
        beginning = entry.env.reset(seed=entry.first_seed if seed is None else seed, options=options)
        entry.first_seed = None
        return beginning


def step(env_id: str, action: Action) -> StepResult:
    """Carry out one action; see :meth:`verl_agent_env.envs.base.ChatEnv.step`.

    Returns:
        Observation, reward, done (``terminated``), truncated, info.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
        EpisodeNotStartedError, EpisodeEndedError: ``reset`` comes first.
    """
    entry = _find(env_id)
    with entry.lock:
        observation, reward, terminated, truncated, info = entry.env.step(action)
        return StepResult(observation, float(reward), terminated, truncated, info)


def close_environment(env_id: str) -> None:
    """Close an environment and forget its id.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
    """
    entry = _find(env_id)
    with entry.lock:
        _entries.pop(env_id, None)
        entry.env.close()


def get_action_space(env_id: str) -> dict[str, Any]:
    """JSON Schema (Draft 2020-12) of a valid action.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
    """
    write = getattr(_find(env_id).env.action_space, "json_schema", None)
    schema: dict[str, Any] = write() if write is not None else action_schema((), parallel=False)
    return schema


def get_task_prompt(env_id: str) -> str:
    """Return the task prompt: what the model has to do, and how it acts.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
    """
    prompt = getattr(_find(env_id).env, "task_prompt", None)
    return str(prompt()) if callable(prompt) else ""


def allow_parallel_tool_call(env_id: str) -> bool:
    """Return whether one action may hold several tool calls.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
    """
    return bool(getattr(_find(env_id).env, "allow_parallel_tool_calls", False))


def get_tools_schema_openai(env_id: str) -> list[dict[str, Any]]:
    """The tools, as OpenAI's chat-completions API takes them.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
    """
    return [tool.openai() for tool in _tools(env_id)]


def get_tools_schema_anthropic(env_id: str) -> list[dict[str, Any]]:
    """The tools, as Anthropic's messages API takes them.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
    """
    return [tool.anthropic() for tool in _tools(env_id)]


def render(env_id: str, mode: str = "ansi") -> Any:
    """Draw an environment: ``ansi`` and ``svg`` give text, ``rgb_array`` an array.

    Raises:
        EnvironmentNotFoundError: No environment has this id.
        RenderModeError: It has no such mode.
    """
    entry = _find(env_id)
    with entry.lock:
        draw = getattr(entry.env, "draw", None)
        return entry.env.render() if draw is None else draw(mode)


def _find(env_id: str) -> _MadeEnv:
    entry = _entries.get(env_id)
    if entry is None:
        raise EnvironmentNotFoundError(env_id)
    return entry


def _tools(env_id: str) -> tuple[Tool, ...]:
    tools: tuple[Tool, ...] = getattr(_find(env_id).env, "tools", ())
    return tools
