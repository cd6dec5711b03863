"""Proposes the next action of an episode, without carrying it out: at random, from the solver, or from a model."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Literal, TypeAlias

import orjson

from verl_agent_env.engine.episodes.conversations import messages_of
from verl_agent_env.engine.host.host import Host
from verl_agent_env.engine.inspection import read_env, trajectory
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.model_endpoints import ModelEndpoint, endpoint_named
from verl_agent_env.envs.model_endpoints.client import complete
from verl_agent_env.errors import EpisodeEndedError, InvalidRequestError
from verl_agent_env.types import Action

Policy: TypeAlias = Literal["random", "solution", "model"]


async def propose_action(
    host: Host, env_id: str, policy: Policy, endpoint: str | None = None
) -> Action | None:
    """Propose an action; the environment stays as it is.

    Args:
        host: The host.
        env_id: The environment.
        policy: ``random``: an action as a random policy takes it; ``solution``: the next one of a known solution;
            ``model``: what a model of the operator's says to the conversation so far.
        endpoint: Name of the model endpoint.

    Returns:
        The action; None where the environment knows none.

    Raises:
        InvalidRequestError: There is no such endpoint.
        EpisodeEndedError: The episode is over.
        EnvironmentStateError: There is no such environment, or it is lost.
        EndpointUnavailableError, EndpointBudgetSpentError: The model gave no answer.
    """
    if policy == "model":
        return await _asked(host, env_id, _endpoint(endpoint))
    dice = random.Random()

    def propose(env: Any) -> Action | None:
        if not isinstance(env, ChatEnv):
            return None
        if env.ended:
            raise EpisodeEndedError(env_id)
        if policy == "random":
            return env.sample_action(dice)
        return next(iter(env.solution() or ()), None)

    return await read_env(host, env_id, propose)


def _endpoint(name: str | None) -> ModelEndpoint:
    try:
        return endpoint_named(name or "")
    except LookupError as unknown:
        raise InvalidRequestError([{"loc": ["endpoint"], "msg": str(unknown)}]) from None


async def _asked(host: Host, env_id: str, endpoint: ModelEndpoint) -> str:
    """Ask a model what it says to the conversation so far."""
    episode = orjson.loads(await trajectory(host, env_id))
    if host.env_table.find(env_id).ended:
        raise EpisodeEndedError(env_id)
    messages = await asyncio.to_thread(messages_of, episode)
    # Results of tools are written as text, as the calls are: not every endpoint takes messages of tools.
    spoken = [{**message, "role": "user"} if message["role"] == "tool" else message for message in messages]
    return await complete(endpoint, spoken, str)
