"""The client library: environments on a server, used as if they were here.

    async with AsyncEnvClient("http://127.0.0.1:8000") as client:
        async with client.make("sokoban", seed=1) as env:
            observation, info = await env.reset()
            observation, reward, terminated, truncated, info = await env.step("<answer>Up</answer>")

:class:`EnvClient` is the same without ``await``; :mod:`verl_agent_env.client.remote_env` and
:mod:`verl_agent_env.client.remote_vector_env` give Gymnasium environments.
"""

from verl_agent_env.client.async_client import AsyncEnvClient, Run
from verl_agent_env.client.async_env import AsyncEnv
from verl_agent_env.client.calls import Beginning
from verl_agent_env.client.errors import (
    ClientClosedError,
    ClientLoopError,
    NoServerError,
    ServerUnreachableError,
    StepUndecidedError,
)
from verl_agent_env.client.playing import LeaveEpisodeError, Played, play
from verl_agent_env.client.sync_client import Env, EnvClient, SyncRun

__all__ = [
    "AsyncEnv",
    "AsyncEnvClient",
    "Beginning",
    "ClientClosedError",
    "ClientLoopError",
    "Env",
    "EnvClient",
    "LeaveEpisodeError",
    "NoServerError",
    "Played",
    "Run",
    "ServerUnreachableError",
    "StepUndecidedError",
    "SyncRun",
    "play",
]
