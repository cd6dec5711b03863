"""The host: owns the live environments of one worker and carries out what is asked of them."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import orjson

from verl_agent_env.config import HostLimits
from verl_agent_env.engine.directory import Directory
from verl_agent_env.engine.execution import Executor, reset_inline, step_inline
from verl_agent_env.engine.instance import Instance
from verl_agent_env.engine.threads import StuckCallError, ThreadRunner
from verl_agent_env.envs.registry import Registry
from verl_agent_env.envs.rng import following_seed
from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentFailedError,
    EnvironmentLostError,
    EnvironmentTimeoutError,
    InvalidEnvArgumentsError,
)
from verl_agent_env.types import NUM_SLOTS, new_env_id
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

logger = logging.getLogger(__name__)

Options: TypeAlias = dict[str, Any] | None

# What an environment's code may raise without harm to others; a KeyboardInterrupt is the operator's.
_ENV_FAULTS = (Exception, SystemExit)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What it takes to make one environment."""

    env_name: str
    seed: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    ttl_s: float | None = None


class Host:
    """Live environments and the calls on them; steps of one environment never overlap.

    An environment that raises or hangs fails its own call only: one that can be replayed stands afterwards where it
    stood before, any other one is lost. All methods belong to one event loop.
    """

    def __init__(
        self,
        registry: Registry,
        limits: HostLimits,
        *,
        name: str = "local",
        clock: Callable[[], float] = time.monotonic,
        pick_slot: Callable[[], int] = lambda: random.getrandbits(12) % NUM_SLOTS,
    ) -> None:
        self.name = name
        self.registry = registry
        self.limits = limits
        self.directory = Directory(limits, clock)
        self.faults: Counter[tuple[str, str]] = Counter()
        """Calls that failed in the environment's own code, by env name and kind of fault."""
        self.clock = clock
        self._pick_slot = pick_slot
        self._threads = ThreadRunner(limits.max_threads, limits.max_stuck_threads)
        self.executor = Executor(self._threads, limits.max_step_s)
        self._closing: set[asyncio.Task[None]] = set()

    # --- calls on one environment ---------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> tuple[str, ResetAnswer]:
        """Make an environment and begin its first episode.

        Returns:
            Its id, and the beginning of the episode.

        Raises:
            UnknownEnvNameError, InvalidEnvArgumentsError: Nothing was built.
            AtCapacityError, RunQuotaExceededError: No room.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
        """
        created = self.create_now(request)
        if created is not None:
            return created
        instance = self._prepare(request)
        with self.directory.reserved(instance):
            answer = await self._begin_apart(instance, _first_seed(request), None)
        self.directory.add(instance)
        return instance.env_id, answer

    def create_now(self, request: CreateRequest) -> tuple[str, ResetAnswer] | None:
        """As :meth:`create`, at once; ``None`` for a kind that does not run inline, with nothing done."""
        if self.registry.kind(request.env_name).execution != "inline":
            return None
        instance = self._prepare(request)
        with self.directory.reserved(instance):
            answer = self._begin_inline(instance, _first_seed(request), None)
        self.directory.add(instance)
        return instance.env_id, answer

    async def reset(self, env_id: str, seed: int | None = None, options: Options = None) -> ResetAnswer:
        """Begin an episode.

        Without a seed, an episode in which nothing was done yet begins anew; otherwise the one that follows begins.
        So a repeated reset does no harm.

        Raises:
            EnvironmentStateError: The environment is unknown, closed or lost.
            InvalidEnvArgumentsError: The environment does not take the options; the episode goes on unchanged.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
        """
        answer = self.reset_now(env_id, seed, options)
        if answer is not None:
            return answer
        instance = self.directory.find(env_id)
        async with self.turn_of(instance):
            instance.require_alive()
            return await self._begin_apart(instance, _next_seed(instance, seed), options)

    def reset_now(self, env_id: str, seed: int | None = None, options: Options = None) -> ResetAnswer | None:
        """As :meth:`reset`, at once; ``None`` for an environment that does not run inline, with nothing done."""
        instance = self.directory.find(env_id)
        if instance.kind.execution != "inline":
            return None
        instance.require_alive()
        return self._begin_inline(instance, _next_seed(instance, seed), options)

    async def step(self, env_id: str, action: Any, seq: int | None = None) -> StepAnswer:
        """Apply an action; one that was applied as ``seq`` before is answered as it was then.

        Raises:
            EnvironmentStateError: The environment is unknown, closed, lost, its episode over, or ``seq`` is not next.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung; the step was not applied.
        """
        answer = self.step_now(env_id, action, seq)
        if answer is not None:
            return answer
        instance = self.directory.find(env_id)
        encoded = orjson.dumps(action)
        async with self.turn_of(instance):
            stored = instance.admit(encoded, seq)
            if stored is not None:
                return stored
            rebuilding = instance.env is None
            try:
                answer = await self.executor.step(instance, action)
            except AtCapacityError:
                raise
            except _ENV_FAULTS as fault:
                self._fail(instance, fault, rebuilding)
            instance.commit(encoded, answer, self.limits.max_journal_bytes)
            self.directory.touch(instance)
            return answer

    def step_now(self, env_id: str, action: Any, seq: int | None = None) -> StepAnswer | None:
        """As :meth:`step`, at once; ``None`` for an environment that does not run inline, with nothing done."""
        instance = self.directory.find(env_id)
        if instance.kind.execution != "inline":
            return None
        encoded = orjson.dumps(action)
        stored = instance.admit(encoded, seq)
        if stored is not None:
            return stored
        rebuilding = instance.env is None
        try:
            answer = step_inline(instance, action)
        except _ENV_FAULTS as fault:
            self._fail(instance, fault, rebuilding)
        instance.commit(encoded, answer, self.limits.max_journal_bytes)
        instance.last_used = self.clock()
        return answer

    def close(self, env_id: str) -> None:
        """Close an environment; closing twice is a success.

        Raises:
            EnvironmentNotFoundError: The id was never given, or so long ago that it is forgotten.
        """
        if not self.directory.was_closed(env_id):
            self._dismiss(self.directory.find(env_id), "closed")

    def close_run(self, run_id: str) -> int:
        """Close all environments of a run.

        Returns:
            How many there were.
        """
        env_ids = self.directory.of_run(run_id)
        for env_id in env_ids:
            self.close(env_id)
        return len(env_ids)

    async def reap(self) -> int:
        """Close environments that nobody has used for their whole ttl.

        Returns:
            How many there were.
        """
        reaped = 0
        slice_end = self.clock() + self.limits.yield_after_s
        for env_id in self.directory.ids():
            instance = self.directory.get(env_id)
            if instance is not None and self._is_idle(instance):
                self._dismiss(instance, "idle")
                reaped += 1
            if self.clock() > slice_end:
                await asyncio.sleep(0)
                slice_end = self.clock() + self.limits.yield_after_s
        return reaped

    @property
    def stuck_threads(self) -> int:
        """Threads whose environment never returned."""
        return self._threads.stuck

    async def stop(self) -> None:
        """Close all environments and end the threads."""
        for env_id in self.directory.ids():
            instance = self.directory.get(env_id)
            if instance is not None:
                self._dismiss(instance, "closed")
        while self._closing:
            await asyncio.wait(self._closing)
        self._threads.stop()

    # --- inner workings -------------------------------------------------------------------------------------

    def _prepare(self, request: CreateRequest) -> Instance:
        kind = self.registry.kind(request.env_name)
        arguments = kind.validate(request.env_kwargs)
        ttl_s = request.ttl_s if request.ttl_s is not None else self.limits.default_ttl_s
        return Instance(new_env_id(self._pick_slot()), kind, arguments, request.run_id, ttl_s)

    def _begin_inline(self, instance: Instance, seed: int, options: Options) -> ResetAnswer:
        try:
            answer = reset_inline(instance, seed, options)
        except InvalidEnvArgumentsError:
            raise
        except _ENV_FAULTS as fault:
            self._fail(instance, fault, rebuilding=False)
        instance.begin(seed, options)
        self.directory.touch(instance)
        return answer

    async def _begin_apart(self, instance: Instance, seed: int, options: Options) -> ResetAnswer:
        try:
            answer = await self.executor.reset(instance, seed, options)
        except (AtCapacityError, InvalidEnvArgumentsError):
            raise
        except _ENV_FAULTS as fault:
            self._fail(instance, fault, rebuilding=False)
        instance.begin(seed, options)
        self.directory.touch(instance)
        return answer

    def _fail(self, instance: Instance, fault: BaseException, rebuilding: bool) -> NoReturn:
        """Drop the environment of a failed call, and say whether it comes back."""
        timed_out = isinstance(fault, TimeoutError | StuckCallError)
        kind_of_fault = "timeout" if timed_out else "exception"
        self.faults[instance.kind.name, kind_of_fault] += 1
        logger.warning(
            "environment call failed: %s",
            kind_of_fault,
            exc_info=None if timed_out else fault,
            extra={"env_id": instance.env_id, "env_name": instance.kind.name},
        )
        self._release(instance)
        error = type(fault).__name__
        if instance.episode >= 0 and (rebuilding or not instance.replayable):
            reason = (
                f"it took longer than {self.limits.max_step_s:g} s"
                if timed_out
                else f"its code raised {error}"
            )
            instance.lost = reason
            raise EnvironmentLostError(instance.env_id, reason) from fault
        if timed_out:
            raise EnvironmentTimeoutError(instance.env_id, self.limits.max_step_s) from fault
        raise EnvironmentFailedError(instance.env_id, error) from fault

    def turn_of(self, instance: Instance) -> asyncio.Lock:
        """First come, first served: calls on one environment that do not run inline wait for each other."""
        if instance.lock is None:
            instance.lock = asyncio.Lock()
        self.directory.touch(instance)
        return instance.lock

    def _is_idle(self, instance: Instance) -> bool:
        busy = instance.lock is not None and instance.lock.locked()
        return not busy and self.clock() - instance.last_used > instance.ttl_s

    def _dismiss(self, instance: Instance, reason: str) -> None:
        """Forget an environment and let it free what it holds."""
        instance.closed_as = reason
        self.directory.remove(instance, reason)
        self._release(instance)

    def _release(self, instance: Instance) -> None:
        """Part the instance from its environment, which frees what it holds."""
        env, instance.env = instance.env, None
        if env is None:
            return
        if instance.kind.execution == "inline":
            try:
                env.close()
            except _ENV_FAULTS:
                logger.warning("closing failed", exc_info=True, extra={"env_id": instance.env_id})
            return
        task = asyncio.get_running_loop().create_task(self._close_later(instance, env))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_later(self, instance: Instance, env: Any) -> None:
        async with self.turn_of(instance):
            try:
                await self.executor.close(instance, env)
            except _ENV_FAULTS:
                logger.warning("closing failed", exc_info=True, extra={"env_id": instance.env_id})


def _first_seed(request: CreateRequest) -> int:
    return request.seed if request.seed is not None else secrets.randbits(53)


def _next_seed(instance: Instance, seed: int | None) -> int:
    if seed is not None:
        return seed
    return instance.seed if instance.seq == 0 else following_seed(instance.seed)
