"""Prepares environments for a move to another worker: records their states, and waits for their calls to the outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Env, Executor
from verl_agent_env.engine.execution.threads import CallTimeoutError
from verl_agent_env.engine.execution.under_way import calling
from verl_agent_env.engine.persistence.recorder import Recorder, state_of


class StateSaver:
    """Saves states, each of an environment that nobody is at work on.

    What has no state, is busy, broken, or fails goes without: the next owner plays it on from an earlier state.
    """

    def __init__(self, recorder: Recorder, executor: Executor, yield_after_s: float) -> None:
        self._recorder = recorder
        self._executor = executor
        self._yield_after_s = yield_after_s

    async def save(self, instances: Sequence[LiveEnv], timeout_s: float) -> None:
        """Record the states of these environments; those that block go on after ``timeout_s``, and come too late."""
        blocking = []
        slice_end = time.perf_counter() + self._yield_after_s
        for instance in instances:
            if instance.env is None or not _is_worth_saving(instance):
                continue
            if instance.kind.uses_thread:
                blocking.append(asyncio.ensure_future(self._save_aside(instance, instance.env)))
                continue
            self._write_state(instance, instance.env)
            if time.perf_counter() > slice_end:
                await asyncio.sleep(0)
                slice_end = time.perf_counter() + self._yield_after_s
        if blocking:
            await asyncio.wait(blocking, timeout=timeout_s)

    def _write_state(self, instance: LiveEnv, env: Env) -> None:
        try:
            with self._executor.record.inline(instance.call):
                state = state_of(env)
        except ENV_FAULTS as fault:
            self._recorder.note_fault(instance, fault)
        else:
            self._recorder.save(instance, state)

    async def _save_aside(self, instance: LiveEnv, env: Env) -> None:
        if instance.lock is None:
            instance.lock = asyncio.Lock()
        async with instance.lock:
            try:
                with calling(instance.call):
                    state = await self._executor.call(instance.kind, env, lambda: state_of(env))
            except CallTimeoutError as stuck:
                # Its thread is still running, and closes the environment: the next call builds it anew.
                instance.env = None
                self._recorder.note_fault(instance, stuck)
            except ENV_FAULTS as fault:
                self._recorder.note_fault(instance, fault)
            else:
                # Only if the answer came in time: an environment that has moved cannot give one.
                if instance.closed_as is None:
                    self._recorder.save(instance, state)


async def slots_calling_outside(instances: Sequence[LiveEnv], timeout_s: float) -> frozenset[int]:
    """Wait for steps that call the outside, and return the slots of those that are under way after ``timeout_s``.

    Their next owner would take such a step anew, and make its calls a second time.
    """
    waiting = {
        asyncio.ensure_future(_returned(instance.lock)): instance.slot
        for instance in instances
        if instance.kind.records_effects and instance.lock is not None and instance.is_busy
    }
    if not waiting:
        return frozenset()
    _, late = await asyncio.wait(waiting, timeout=timeout_s)
    for task in late:
        task.cancel()
    return frozenset(waiting[task] for task in late)


async def _returned(lock: asyncio.Lock) -> None:
    async with lock:
        pass


def _is_worth_saving(instance: LiveEnv) -> bool:
    return (
        instance.is_journalled
        and instance.kind.has_state
        and instance.lost is None
        and instance.state_seq < instance.seq
        and not (instance.lock is not None and instance.lock.locked())
    )
