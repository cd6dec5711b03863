"""Builds an environment anew in its last good state: after a call that failed, the object that ran cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.execution.executor import (
    Env,
    Executor,
    play_inline,
    reset_inline,
    restore_inline,
    see_nothing,
)


def rebuilt_inline(instance: LiveEnv) -> Env:
    """Build the environment of an inline kind anew."""
    kind, arguments = instance.kind, instance.arguments
    state, actions = _beginning(instance)
    if state is not None:
        env = restore_inline(kind, arguments, state)
    else:
        env, _ = reset_inline(kind, arguments, None, instance.seed, instance.options)
    play_inline(env, actions)
    return env


async def rebuilt(executor: Executor, instance: LiveEnv) -> Env:
    """Build the environment of any kind anew."""
    kind, arguments = instance.kind, instance.arguments
    state, actions = _beginning(instance)
    if state is not None:
        env = await executor.restore(kind, arguments, state)
    else:
        env, _ = await executor.begin_again(
            kind, arguments, instance.seed, instance.options, instance.effects
        )
    await executor.play(kind, env, actions, see_nothing)
    return env


def _beginning(instance: LiveEnv) -> tuple[bytes | None, Sequence[bytes]]:
    """The state to begin with, or None for the episode's beginning, and the actions that followed."""
    actions = instance.actions or ()
    if instance.state is not None and instance.state_seq == instance.seq:
        return instance.state, ()
    if instance.replays_from_state:
        return instance.state, actions[instance.state_seq - instance.first_seq :]
    return None, actions
