"""Reads actions as an environment would, and carries none of them out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from verl_agent_env.engine.calls.lifecycle import encode_action
from verl_agent_env.engine.execution.executor import ENV_FAULTS, build
from verl_agent_env.engine.host.host import Host
from verl_agent_env.engine.inspection.state import read_env
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.messages import parse_action, reading_of

logger = logging.getLogger(__name__)


async def read_action(host: Host, env_id: str, action: Any) -> dict[str, Any]:
    """Read an action as a step of the environment would, and change nothing.

    Returns:
        ``form``, ``thought``, ``calls``, ``valid``, ``problem`` and ``place``, as
        :class:`~verl_agent_env.wire.responses.ReadActionResponse` has them.

    Raises:
        ActionTooLargeError, InvalidRequestError: It is no action that a step would take.
        EnvironmentStateError: There is none, or it is lost.
    """
    encode_action(action, host.limits.max_action_bytes)
    return await read_env(host, env_id, lambda env: _reading(env, action))


def _reading(env: Any, action: Any) -> dict[str, Any]:
    """Tell how an environment reads an action."""
    if isinstance(env, ChatEnv):
        return env.reading_of(action)
    parsed = parse_action(action)
    return reading_of(parsed, parsed.calls)


async def read_kept_actions(
    host: Host, env_name: str, env_kwargs: Mapping[str, Any], actions: Sequence[Any]
) -> list[dict[str, Any] | None]:
    """Read actions of an episode that is over, as :func:`read_action` does.

    Returns:
        Of each action how it is read; None if its kind is not installed here, or cannot say so.
    """
    try:
        await host.kinds.load((env_name,))
        kind = host.registry.kind(env_name)
        arguments = kind.validate(env_kwargs)
        kind = kind.fitting(arguments)

        def read_all() -> list[dict[str, Any] | None]:
            env = build(kind, arguments)
            try:
                return [_reading(env, action) for action in actions]
            finally:
                env.close()

        return await host.executor.run(kind, read_all)
    except ENV_FAULTS:
        logger.debug("reading kept actions failed", exc_info=True, extra={"env_name": env_name})
        return [None] * len(actions)
