"""Runs an environment's code where it belongs: inline, in a thread, or as a coroutine; with a time-out on the latter two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import gymnasium
import orjson

from verl_agent_env.engine.instance import Instance
from verl_agent_env.engine.threads import ThreadRunner
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

T = TypeVar("T")
Env: TypeAlias = gymnasium.Env[Any, Any]


class Executor:
    """Carries out calls of environments and encodes what they return.

    An environment's exceptions come out unchanged; one that takes longer than ``max_step_s`` raises ``TimeoutError``
    or :class:`~verl_agent_env.engine.threads.StuckCallError`.
    """

    def __init__(self, threads: ThreadRunner, max_step_s: float) -> None:
        self._threads = threads
        self._max_step_s = max_step_s

    async def reset(self, instance: Instance, seed: int, options: dict[str, Any] | None) -> ResetAnswer:
        """Begin an episode in the instance's environment, building it first if there is none."""
        env = instance.env
        if instance.kind.execution == "async":
            async with asyncio.timeout(self._max_step_s):
                built: Any = env if env is not None else instance.kind.build(instance.arguments)
                # Known to the instance before it runs: should it fail, it is closed.
                instance.env = built
                answer = ResetAnswer.of(*await built.areset(seed=seed, options=options))
        else:
            built, answer = await self._threads.run(
                lambda: _reset(instance, env, seed, options), self._max_step_s
            )
        instance.env = built
        return answer

    async def step(self, instance: Instance, action: Any) -> StepAnswer:
        """Apply ``action`` to the instance's environment, replaying the episode first if need be."""
        env = instance.env
        if instance.kind.execution == "async":
            async with asyncio.timeout(self._max_step_s):
                built: Any = env if env is not None else await _replay_async(instance)
                answer = StepAnswer.of(await built.astep(action))
        else:
            # The thread changes nothing of the instance: should it be given up, its outcome is dropped whole.
            built, answer = await self._threads.run(lambda: _step(instance, env, action), self._max_step_s)
        instance.env = built
        return answer

    async def close(self, instance: Instance, env: Env) -> None:
        """Let the environment free what it holds."""
        if instance.kind.execution == "async":
            async with asyncio.timeout(self._max_step_s):
                await env.aclose()  # type: ignore[attr-defined]
        else:
            await self._threads.run(env.close, self._max_step_s)

    async def run(self, call: Callable[[], T]) -> T:
        """Run any function in a thread, under the same time-out."""
        return await self._threads.run(call, self._max_step_s)


def reset_inline(instance: Instance, seed: int, options: dict[str, Any] | None) -> ResetAnswer:
    """Begin an episode, here and now."""
    instance.env, answer = _reset(instance, instance.env, seed, options)
    return answer


def step_inline(instance: Instance, action: Any) -> StepAnswer:
    """Apply an action, here and now."""
    env = instance.env
    if env is None:
        env = instance.env = replay(instance)
    return StepAnswer.of(env.step(action))


def replay(instance: Instance) -> Env:
    """A new environment that stands where the instance's episode stands."""
    env = instance.kind.build(instance.arguments)
    env.reset(seed=instance.seed, options=instance.options)
    for action in instance.actions or ():
        env.step(orjson.loads(action))
    return env


def _reset(
    instance: Instance, env: Env | None, seed: int, options: dict[str, Any] | None
) -> tuple[Env, ResetAnswer]:
    if env is None:
        env = instance.kind.build(instance.arguments)
    return env, ResetAnswer.of(*env.reset(seed=seed, options=options))


def _step(instance: Instance, env: Env | None, action: Any) -> tuple[Env, StepAnswer]:
    if env is None:
        env = replay(instance)
    return env, StepAnswer.of(env.step(action))


async def _replay_async(instance: Instance) -> Any:
    env: Any = instance.kind.build(instance.arguments)
    await env.areset(seed=instance.seed, options=instance.options)
    for action in instance.actions or ():
        await env.astep(orjson.loads(action))
    return env
