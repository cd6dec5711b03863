"""Calls on environments whose code runs in threads or is awaited: one after the other, each to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from verl_agent_env.engine.execution import ENV_FAULTS, Env
from verl_agent_env.engine.instance import Instance
from verl_agent_env.engine.lifecycle import (
    CreateRequest,
    Lifecycle,
    encode_action,
    encode_options,
    first_seed,
    next_seed,
)
from verl_agent_env.engine.marks import NO_MARK
from verl_agent_env.engine.persistence.pending import await_maybe
from verl_agent_env.engine.rebuilding import rebuilt
from verl_agent_env.engine.threads import CallTimeoutError
from verl_agent_env.engine.under_way import calling
from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentClosedError,
    EnvironmentStateError,
    InvalidEnvArgumentsError,
    VerlAgentEnvError,
)
from verl_agent_env.types import slot_of
from verl_agent_env.wire.actions import identity_of
from verl_agent_env.wire.results import EncodedReset, EncodedStep

T = TypeVar("T")


class ApartCalls:
    """The calls; one that has begun is carried out to its end, also when its caller goes away."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self.under_way: set[asyncio.Task[Any]] = set()
        """Calls that have not come to their end."""
        self._making: dict[str, asyncio.Task[tuple[str, EncodedReset]]] = {}
        """Environments that are being made under an id that was given: whoever asks again knows it too."""

    async def create(self, instance: Instance, request: CreateRequest) -> tuple[str, EncodedReset]:
        """Make the environment, and begin its first episode; one that is being made under a given id is waited for."""
        env_id = request.env_id
        tenure = self._lifecycle.directory.tenure_of(slot_of(instance.env_id))
        if env_id is not None:
            making = self._making.get(env_id)
            if making is None:
                making = self._making[env_id] = self._begin_task(self._create(instance, request, tenure))
                making.add_done_callback(lambda _: self._making.pop(env_id))
            return await asyncio.shield(making)
        try:
            return await self._to_the_end(self._create(instance, request, tenure))
        except asyncio.CancelledError:
            # Nobody will ever learn its id.
            if self._lifecycle.directory.get(instance.env_id) is instance:
                self._lifecycle.end(instance, "closed")
            else:
                instance.closed_as = "closed"
            raise

    async def reset(
        self, instance: Instance, seed: int | None, options: dict[str, Any] | None, operation: bytes
    ) -> EncodedReset:
        """Begin another episode, or answer again how the present one began."""
        return await self._to_the_end(self._kept(instance, self._reset(instance, seed, options, operation)))

    async def step(self, instance: Instance, action: Any, seq: int | None, operation: bytes) -> EncodedStep:
        """Apply an action."""
        return await self._to_the_end(self._kept(instance, self._step(instance, action, seq, operation)))

    async def read(self, instance: Instance, read: Callable[[Any], T]) -> T:
        """What ``read`` says of the environment, which stands still meanwhile."""
        return await self._to_the_end(self._read(instance, read))

    async def _create(
        self, instance: Instance, request: CreateRequest, tenure: int
    ) -> tuple[str, EncodedReset]:
        with self._lifecycle.directory.reserved(instance):
            answer = await self._begin(instance, first_seed(request), None)
        if instance.closed_as is not None:
            self._lifecycle.release(instance)
            raise EnvironmentClosedError(instance.env_id, instance.closed_as)
        if not self._lifecycle.add(instance, tenure):
            there = self._lifecycle.directory.find(instance.env_id)
            return await self._lifecycle.created_before(there, request)
        return await await_maybe(self._lifecycle.hold_back(instance, (instance.env_id, answer)))

    async def _reset(
        self, instance: Instance, seed: int | None, options: dict[str, Any] | None, operation: bytes
    ) -> EncodedReset:
        async with self._turn(instance):
            begun = instance.admit_reset(operation)
            if begun is not None:
                return await self._lifecycle.shown_again(instance, begun)
            return await self._begin(instance, next_seed(instance, seed), options, operation)

    async def _begin(
        self, instance: Instance, seed: int, options: dict[str, Any] | None, operation: bytes = b""
    ) -> EncodedReset:
        encoded = encode_options(options, self._lifecycle.limits.max_arguments_bytes)
        try:
            with calling(instance.next_beginning):
                instance.env, answer, mark = await self._lifecycle.executor.begin(
                    instance.kind,
                    instance.arguments,
                    instance.env,
                    seed,
                    encoded,
                    lambda env: self._lifecycle.mark_beginning(instance, env),
                )
            self._lifecycle.require_short(answer)
        except (AtCapacityError, InvalidEnvArgumentsError):
            raise
        except ENV_FAULTS as fault:
            self._lifecycle.fail(instance, fault)
        self._lifecycle.require_counted(instance)
        self._lifecycle.begun(instance, seed, encoded, answer, mark, operation)
        return answer

    async def _step(self, instance: Instance, action: Any, seq: int | None, operation: bytes) -> EncodedStep:
        limits, recorder = self._lifecycle.limits, self._lifecycle.recorder
        encoded = encode_action(action, limits.max_action_bytes)
        identity = identity_of(encoded)
        async with self._turn(instance):
            answer = instance.admit(identity, seq, operation)
            if answer is None:
                self._lifecycle.require_room(instance)
                env = await self._standing(instance)
                try:
                    with calling(instance.call):
                        encoded, answer, mark = await self._lifecycle.executor.step(
                            instance.kind,
                            env,
                            action,
                            encoded,
                            lambda env, answer: (
                                NO_MARK if recorder is None else recorder.mark(instance, env, answer)
                            ),
                            briefly=identity is not encoded and instance.records_calls,
                        )
                    self._lifecycle.require_short(answer)
                except AtCapacityError:
                    raise
                except ENV_FAULTS as fault:
                    self._lifecycle.fail(instance, fault)
                self._lifecycle.require_counted(instance)
                instance.commit(identity, answer, limits.max_journal_bytes, operation, mark, encoded)
                if recorder is not None:
                    recorder.stepped(instance, encoded, mark)
            return answer

    async def _read(self, instance: Instance, read: Callable[[Any], T]) -> T:
        async with self._turn(instance):
            instance.require_alive()
            env = await self._standing(instance)
            try:
                with calling(instance.call):
                    return await self._lifecycle.executor.call(instance.kind, env, lambda: read(env))
            except CallTimeoutError as stuck:
                # Somebody may be at it still: it cannot be used any more.
                self._lifecycle.fail(instance, stuck)
            except VerlAgentEnvError:
                raise
            except ENV_FAULTS as fault:
                raise self._lifecycle.failure(instance, fault) from fault

    async def _kept(self, instance: Instance, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call when all that it tells of is written; what a refusal tells of earlier calls, too."""
        try:
            answer = await call
        except EnvironmentStateError as error:
            return cast("T", await self._lifecycle.hold_back_error(instance, error))
        return await await_maybe(self._lifecycle.hold_back(instance, answer))

    async def _standing(self, instance: Instance) -> Env:
        """The instance's environment, built anew after a call that failed."""
        if instance.env is None:
            try:
                with calling(instance.call):
                    instance.env = await rebuilt(self._lifecycle.executor, instance)
            except AtCapacityError:
                raise
            except ENV_FAULTS as fault:
                self._lifecycle.fail(instance, fault, rebuilding=True)
        return instance.env

    async def _to_the_end(self, call: Coroutine[Any, Any, T]) -> T:
        """Carry out ``call`` even if the caller is cancelled: half a call leaves an environment that nobody knows."""
        return await asyncio.shield(self._begin_task(call))

    def _begin_task(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(call)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return task

    @asynccontextmanager
    async def _turn(self, instance: Instance) -> AsyncIterator[None]:
        """First come, first served: calls on one environment that do not run inline wait for each other."""
        if instance.lock is None:
            instance.lock = asyncio.Lock()
        self._lifecycle.directory.touch(instance)
        async with instance.lock:
            try:
                self._lifecycle.require_here(instance)
                yield
            except asyncio.CancelledError:
                # The host stops. A thread that is at it still closes it when it comes back.
                if instance.kind.uses_thread:
                    instance.env = None
                raise
            finally:
                self._lifecycle.directory.touch(instance)
                if instance.closed_as is not None:
                    self._lifecycle.release(instance)
