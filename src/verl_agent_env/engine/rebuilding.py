"""Builds an environment anew as it stands: after a call that failed, what ran is not to be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from verl_agent_env.engine.execution import Env, Executor, play_inline, reset_inline, restore_inline
from verl_agent_env.engine.instance import Instance


def rebuilt_inline(instance: Instance) -> Env:
    """Build the environment of an inline kind anew."""
    state = _present_state(instance)
    if state is not None:
        return restore_inline(instance.kind, instance.arguments, state)
    env, _ = reset_inline(instance.kind, instance.arguments, None, instance.seed, instance.options)
    play_inline(env, _actions(instance))
    return env


async def rebuilt(executor: Executor, instance: Instance) -> Env:
    """Build the environment of any kind anew."""
    kind, arguments = instance.kind, instance.arguments
    state = _present_state(instance)
    if state is not None:
        return await executor.restore(kind, arguments, state)
    env, _ = await executor.reset(kind, arguments, None, instance.seed, instance.options)
    await executor.play(kind, env, _actions(instance))
    return env


def _present_state(instance: Instance) -> bytes | None:
    return instance.state if instance.state_seq == instance.seq else None


def _actions(instance: Instance) -> Sequence[bytes]:
    return instance.actions or ()
