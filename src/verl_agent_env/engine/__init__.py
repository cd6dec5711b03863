"""The host: owns live environments inside one worker, runs them, and keeps what it takes to answer a step twice."""

from verl_agent_env.engine.calls.lifecycle import CreateRequest
from verl_agent_env.engine.group_commit.pending import AwaitableOrValue, PendingAnswer, await_maybe, map_maybe
from verl_agent_env.engine.host.host import Host
from verl_agent_env.wire.results import Created

__all__ = [
    "AwaitableOrValue",
    "CreateRequest",
    "Created",
    "Host",
    "PendingAnswer",
    "await_maybe",
    "map_maybe",
]
