"""The client library: environments on a server, used like local ones.

    async with AsyncEnvClient("http://127.0.0.1:8000") as client:
        async with client.make("sokoban", seed=1) as env:
            observation, info = await env.reset()
            observation, reward, terminated, truncated, info = await env.step("<answer>Up</answer>")

:class:`EnvClient` is the blocking client; :mod:`verl_agent_env.client.remote_env` and
:mod:`verl_agent_env.client.remote_vector_env` have Gymnasium environments.
"""

from typing import TYPE_CHECKING

from verl_agent_env.client.async_client import AsyncEnvClient, Run
from verl_agent_env.client.async_env import AsyncEnv
from verl_agent_env.client.calls import ResetResult
from verl_agent_env.client.errors import (
    ClientClosedError,
    ClientLoopError,
    NoServerError,
    ServerUnreachableError,
    StepUndecidedError,
)
from verl_agent_env.client.playing import LeaveEpisodeError, PlayedEpisode, play
from verl_agent_env.client.sync_client import Env, EnvClient, SyncRun
from verl_agent_env.moved import renamed

__all__ = [
    "AsyncEnv",
    "AsyncEnvClient",
    "ClientClosedError",
    "ClientLoopError",
    "Env",
    "EnvClient",
    "LeaveEpisodeError",
    "NoServerError",
    "PlayedEpisode",
    "ResetResult",
    "Run",
    "ServerUnreachableError",
    "StepUndecidedError",
    "SyncRun",
    "play",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Beginning": "ResetResult", "Played": "PlayedEpisode"})
