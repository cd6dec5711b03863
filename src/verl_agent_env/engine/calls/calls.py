"""Calls on the live environments of a host: each is admitted, run, failed or committed, and recorded, in this order."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, TypeVar, cast

from verl_agent_env.engine.calls.first_actions import FirstSteps, play_first
from verl_agent_env.engine.calls.lifecycle import (
    CheckedKind,
    CreateRequest,
    Lifecycle,
    encode_action,
    encode_options,
    first_seed,
    next_seed,
)
from verl_agent_env.engine.calls.rebuilding import rebuilt, rebuilt_inline
from verl_agent_env.engine.environments.env_table import EnvTable
from verl_agent_env.engine.environments.live_env import Beginning, LiveEnv
from verl_agent_env.engine.environments.marks import NO_MARK, Mark
from verl_agent_env.engine.episodes.notes import NOTES_AT_ONCE, EpisodeNote, StepNote
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Env, begin_inline, reset_inline, step_briefly
from verl_agent_env.engine.execution.threads import CallTimeoutError
from verl_agent_env.engine.execution.under_way import calling
from verl_agent_env.engine.group_commit.pending import AwaitableOrValue, PendingAnswer, await_maybe
from verl_agent_env.errors import (
    AtCapacityError,
    EndpointBudgetSpentError,
    EndpointUnavailableError,
    EnvironmentClosedError,
    EnvironmentStateError,
    InvalidEnvArgumentsError,
    SeatError,
    VerlAgentEnvError,
)
from verl_agent_env.spans import note_wait
from verl_agent_env.turns import current_tenant, tenant_of
from verl_agent_env.types import slot_of
from verl_agent_env.wire.actions import MAX_WHOLE_BYTES, identity_of
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep, PlayedBeginning
from verl_agent_env.wire.suspicions import BEGINNING

T = TypeVar("T")


class PendingClose(PendingAnswer[None], kw_only=True):
    """The answer to a closing, until it is written; an environment that others closed meanwhile is closed as well."""

    env_table: EnvTable

    def refuse(self, refusal: VerlAgentEnvError) -> None:
        """Note that the closing was not written, and why, unless the environment was closed meanwhile."""
        if not self.env_table.was_closed(self.env_id):
            super().refuse(refusal)


class Calls:
    """The calls, each carried out inline or offloaded to a thread or a coroutine, as its environment's kind has it.

    A call gives its result at once where there is nothing to wait for: inline, nothing can come between. What has to be
    written before it is answered has been carried out all the same. An offloaded call is a coroutine that has not begun.
    Once begun, an offloaded call runs to its end, also when the caller goes away. Offloaded calls on one environment wait for
    each other.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        """Make calls on the environments of ``lifecycle``."""
        self._lifecycle = lifecycle
        self.check = lifecycle.check
        """Checks the name and the keyword arguments of a request, for :meth:`create`."""
        self._limits, self._clock = lifecycle.limits, lifecycle.clock
        self._env_table, self._executor = lifecycle.env_table, lifecycle.executor
        self._get, self._find = lifecycle.env_table.get, lifecycle.env_table.find
        self._call_record = lifecycle.executor.record
        self._note, self._state = self._call_record.note_inline, self._call_record.inline_state
        self._recorder, self._collector = lifecycle.recorder, lifecycle.collector
        self._notes: list[EpisodeNote] = [] if self._collector is None else self._collector.notes
        self._add_note = self._notes.append
        self.under_way: set[asyncio.Task[Any]] = set()
        """Offloaded calls that have not come to their end."""
        self._creating: dict[str, asyncio.Task[Created]] = {}
        """Offloaded creations under an id that was given: whoever asks again waits for the same."""

    # --- create ---------------------------------------------------------------------------------------------

    def create(self, request: CreateRequest, checked: CheckedKind | None = None) -> AwaitableOrValue[Created]:
        """Make an environment and begin its first episode; see :meth:`~verl_agent_env.engine.host.host.Host.create`."""
        if request.env_id is not None and self._env_table.is_known(request.env_id):
            return self._lifecycle.created_before(self._find(request.env_id), request)
        instance = self._lifecycle.prepare(request, checked)
        if instance.kind.execution != "inline":
            return self._create_offloaded(instance, request)
        with self._env_table.reserved(instance):
            answer = self._begin(instance, first_seed(request), None)
        self._lifecycle.add(instance)
        return self._lifecycle.hold_back(instance, Created(instance.env_id, answer))

    async def _create_offloaded(self, instance: LiveEnv, request: CreateRequest) -> Created:
        env_id = request.env_id
        epoch = self._env_table.epoch_of(slot_of(instance.env_id))
        if env_id is not None:
            creating = self._creating.get(env_id)
            if creating is None:
                creating = self._creating[env_id] = self._start(
                    self._create(instance, request, epoch), instance
                )
                creating.add_done_callback(lambda _: self._creating.pop(env_id))
            return await asyncio.shield(creating)
        try:
            return await self._to_the_end(self._create, instance, request, epoch)
        except asyncio.CancelledError:
            # Nobody will ever learn its id.
            if self._get(instance.env_id) is instance:
                self._lifecycle.end(instance, "closed")
            else:
                instance.closed_as = "closed"
            raise

    async def _create(self, instance: LiveEnv, request: CreateRequest, epoch: int) -> Created:
        with self._env_table.reserved(instance):
            answer = await self._begin_offloaded(instance, first_seed(request), None)
        if instance.closed_as is not None:
            self._env_table.release(instance)
            raise EnvironmentClosedError(instance.env_id, instance.closed_as)
        if not self._lifecycle.add(instance, epoch):
            return await self._lifecycle.created_before(self._find(instance.env_id), request)
        return await await_maybe(self._lifecycle.hold_back(instance, Created(instance.env_id, answer)))

    # --- reset ----------------------------------------------------------------------------------------------

    def reset(
        self, env_id: str, seed: int | None, options: dict[str, Any] | None, operation: bytes
    ) -> AwaitableOrValue[EncodedReset]:
        """Begin an episode; see :meth:`~verl_agent_env.engine.host.host.Host.reset`."""
        instance = self._get(env_id) or self._find(env_id)
        instance.last_used = self._clock()
        if instance.kind.execution != "inline":
            return self._answered(instance, self._reset_offloaded, seed, options, operation)
        try:
            begun = instance.admit_reset(operation)
            if begun is not None:
                answer = self._shown_again(instance, begun)
            else:
                answer = self._begin(instance, next_seed(instance, seed), options, operation)
        except EnvironmentStateError as error:
            return self._lifecycle.hold_back_error(instance, error)
        return self._lifecycle.hold_back(instance, answer)

    async def _reset_offloaded(
        self, instance: LiveEnv, seed: int | None, options: dict[str, Any] | None, operation: bytes
    ) -> EncodedReset:
        async with self._turn(instance):
            begun = instance.admit_reset(operation)
            if begun is not None:
                return await self._lifecycle.shown_again(instance, begun)
            return await self._begin_offloaded(instance, next_seed(instance, seed), options, operation)

    def _shown_again(self, instance: LiveEnv, begun: Beginning) -> EncodedReset:
        if begun.answer is not None:
            return begun.answer
        with self._call_record.inline(instance.call):
            try:
                env, answer = reset_inline(instance.kind, instance.arguments, None, begun.seed, begun.options)
            except ENV_FAULTS as fault:
                raise self._lifecycle.failure(instance, fault) from fault
            self._executor.dispose(instance.kind, env)
        return answer

    def _begin(
        self, instance: LiveEnv, seed: int, options: dict[str, Any] | None, operation: bytes = b""
    ) -> EncodedReset:
        encoded = encode_options(options, self._limits.max_arguments_bytes)
        if self._note is not None:
            self._note(instance.env_id.encode(), instance.episode + 1, BEGINNING, 1)
        try:
            instance.env, answer, mark = begin_inline(
                instance.kind,
                instance.arguments,
                instance.env,
                seed,
                encoded,
                lambda env: self._lifecycle.mark_beginning(instance, env),
            )
            self._lifecycle.require_short(answer)
        except InvalidEnvArgumentsError:
            raise
        except ENV_FAULTS as fault:
            self._lifecycle.fail(instance, fault)
        finally:
            self._state[0] = 0
        self._lifecycle.begun(instance, seed, encoded, answer, mark, operation)
        return answer

    async def _begin_offloaded(
        self, instance: LiveEnv, seed: int, options: dict[str, Any] | None, operation: bytes = b""
    ) -> EncodedReset:
        encoded = encode_options(options, self._limits.max_arguments_bytes)
        try:
            with calling(instance.next_beginning):
                instance.env, answer, mark = await self._executor.begin(
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

    def begin_and_play(
        self, env_id: str, seed: int, options: dict[str, Any] | None, actions: Sequence[Any], operation: bytes
    ) -> Coroutine[Any, Any, PlayedBeginning]:
        """Begin an episode with these actions; see :meth:`~verl_agent_env.engine.host.host.Host.begin_and_play`."""
        return self._answered(self._find(env_id), self._begin_and_play, seed, options, actions, operation)

    async def _begin_and_play(
        self,
        instance: LiveEnv,
        seed: int,
        options: dict[str, Any] | None,
        actions: Sequence[Any],
        operation: bytes,
    ) -> PlayedBeginning:
        async with self._turn(instance):
            instance.admit_reset(operation)
            first = await play_first(self._executor, self._lifecycle, instance, seed, options, actions)
            try:
                self._lifecycle.require_here(instance)
                # Asked again: calls that run inline do not wait for this one, and the same request may have come twice.
                is_new = instance.admit_reset(operation) is None
            except EnvironmentStateError:
                self._executor.dispose(instance.kind, first.env)
                raise
            if not is_new:
                self._executor.dispose(instance.kind, first.env)
                return first.beginning
            before, instance.env = instance.env, first.env
            if before is not None:
                self._executor.dispose(instance.kind, before)
            self._note_first(instance, seed, first, operation)
            return first.beginning

    def _note_first(self, instance: LiveEnv, seed: int, first: FirstSteps, operation: bytes) -> None:
        """Note that an episode has begun with steps, and record it as a whole."""
        lifecycle, recorder = self._lifecycle, self._recorder
        lifecycle.begun(
            instance, seed, first.options, first.answer, first.mark, operation, is_recorded=not first.steps
        )
        for step in first.steps:
            limit = self._limits.max_journal_bytes
            instance.commit(step.identity, step.answer, limit, b"", step.mark, step.recorded)
            if self._collector is not None:
                self._collector.stepped(instance, step.recorded, step.answer)
        if first.steps and recorder is not None:
            recorder.begun_and_played(instance)
        if instance.ended and first.steps:
            lifecycle.count_result(instance, first.steps[-1].answer)

    # --- step -----------------------------------------------------------------------------------------------

    def step(
        self, env_id: str, action: Any, seq: int | None, operation: bytes
    ) -> AwaitableOrValue[EncodedStep]:
        """Apply an action; see :meth:`~verl_agent_env.engine.host.host.Host.step`."""
        instance = self._get(env_id) or self._find(env_id)
        instance.last_used = self._clock()
        if instance.kind.execution != "inline":
            return self._answered(instance, self._step_offloaded, action, seq, operation)
        encoded = encode_action(action, self._limits.max_action_bytes)
        identity = encoded if len(encoded) <= MAX_WHOLE_BYTES else identity_of(encoded)
        try:
            answer = instance.admit(identity, seq, operation)
            if answer is None:
                if instance.is_journalled:
                    self._require_writable(instance)
                answer = self._run_step(instance, action, encoded, identity, operation)
        except EnvironmentStateError as error:
            return self._lifecycle.hold_back_error(instance, error)
        return answer if instance.group is None else self._lifecycle.hold_back(instance, answer)

    async def _step_offloaded(
        self, instance: LiveEnv, action: Any, seq: int | None, operation: bytes
    ) -> EncodedStep:
        encoded = encode_action(action, self._limits.max_action_bytes)
        identity = encoded if len(encoded) <= MAX_WHOLE_BYTES else identity_of(encoded)
        async with self._turn(instance):
            answer = instance.admit(identity, seq, operation)
            if answer is None:
                if instance.is_journalled:
                    self._require_writable(instance)
                recorded, answer, mark = await self._run_step_offloaded(instance, action, encoded, identity)
                self._lifecycle.require_counted(instance)
                self._commit_step(instance, identity, answer, operation, mark, recorded)
                if self._collector is not None:
                    self._collector.stepped(instance, encoded, answer)
            return answer

    def _require_writable(self, instance: LiveEnv) -> None:
        """Raise when a step of this environment could not be written to the journal."""
        if instance.durability == "relaxed":
            # Its answer waits for no write that would be refused.
            self._lifecycle.require_here(instance)
        if instance.history_bytes > self._limits.max_kept_bytes:
            self._lifecycle.require_room(instance)

    def _run_step(
        self, instance: LiveEnv, action: Any, encoded: bytes, identity: bytes, operation: bytes
    ) -> EncodedStep:
        """Apply an action inline, note that it was applied, and record it."""
        note, recorder, sent = self._note, self._recorder, encoded
        if note is not None:
            # As CallRecord.inline has it known, for a tenth of the price.
            note(instance.env_id.encode(), instance.episode, instance.seq, 1)
        try:
            env = instance.env
            if env is None:
                env = self._rebuilt(instance)
            try:
                if identity is not encoded and instance.records_calls:
                    encoded, answer = step_briefly(env, action, encoded)
                else:
                    answer = EncodedStep.of(env.step(action))
                # As Lifecycle.require_short, without a call.
                if len(answer.observation) + len(answer.info) > self._limits.max_answer_bytes:
                    self._lifecycle.require_short(answer)
                mark = NO_MARK if recorder is None else recorder.mark(instance, env, answer, instance.seq)
            except SeatError as refused:
                # It changed nothing.
                raise dataclasses.replace(refused, env_id=instance.env_id) from None
            except ENV_FAULTS as fault:
                self._lifecycle.fail(instance, fault)
        finally:
            if note is not None:
                self._state[0] = 0
        # As _commit_step, without a call.
        instance.commit(identity, answer, self._limits.max_journal_bytes, operation, mark, encoded)
        if instance.ended:
            self._lifecycle.count_result(instance, answer)
        if recorder is not None:
            recorder.stepped(instance, encoded, mark)
        if instance.is_noted:
            # As EpisodeCollector.stepped, without a call.
            self._add_note(StepNote(instance.env_id, sent, instance.last_used, answer))
            if len(self._notes) >= NOTES_AT_ONCE and self._collector is not None:
                self._collector.put_by()
        return answer

    async def _run_step_offloaded(
        self, instance: LiveEnv, action: Any, encoded: bytes, identity: bytes
    ) -> tuple[bytes, EncodedStep, Mark]:
        """Apply an action in a thread, or await it; gives the action as it is recorded, the answer, and what is recorded of the
        state."""
        recorder, env = self._recorder, await self._standing(instance)

        def mark(env: Env, answer: EncodedStep) -> Mark:
            return NO_MARK if recorder is None else recorder.mark(instance, env, answer, instance.seq)

        try:
            with calling(instance.call):
                briefly = identity is not encoded and instance.records_calls
                run = await self._executor.apply(instance.kind, env, action, encoded, mark, briefly=briefly)
            self._lifecycle.require_short(run[1])
            return run
        except (AtCapacityError, EndpointUnavailableError, EndpointBudgetSpentError):
            # Models are asked before anything is changed: the environment takes the same step again.
            raise
        except SeatError as refused:
            raise dataclasses.replace(refused, env_id=instance.env_id) from None
        except ENV_FAULTS as fault:
            self._lifecycle.fail(instance, fault)

    def _commit_step(
        self,
        instance: LiveEnv,
        identity: bytes,
        answer: EncodedStep,
        operation: bytes,
        mark: Mark,
        encoded: bytes,
    ) -> None:
        """Note that a step was applied, and record it."""
        instance.commit(identity, answer, self._limits.max_journal_bytes, operation, mark, encoded)
        if instance.ended:
            self._lifecycle.count_result(instance, answer)
        if self._recorder is not None:
            self._recorder.stepped(instance, encoded, mark)

    # --- read, close ----------------------------------------------------------------------------------------

    def read(self, env_id: str, read: Callable[[Any], T]) -> AwaitableOrValue[T]:
        """Read of an environment; see :meth:`~verl_agent_env.engine.host.host.Host.read`."""
        instance = self._find(env_id)
        if instance.kind.execution != "inline":
            return self._to_the_end(self._read_offloaded, instance, read)
        try:
            instance.require_alive()
        except EnvironmentStateError as error:
            return self._lifecycle.hold_back_error(instance, error)
        self._env_table.touch(instance)
        with self._call_record.inline(instance.call):
            env = instance.env if instance.env is not None else self._rebuilt(instance)
            try:
                return read(env)
            except VerlAgentEnvError:
                raise
            except ENV_FAULTS as fault:
                raise self._lifecycle.failure(instance, fault) from fault

    async def _read_offloaded(self, instance: LiveEnv, read: Callable[[Any], T]) -> T:
        async with self._turn(instance):
            await self._lifecycle.require_alive(instance)
            env = await self._standing(instance)
            try:
                with calling(instance.call):
                    return await self._executor.call(instance.kind, env, lambda: read(env))
            except CallTimeoutError as stuck:
                # The thread may still use it: nobody else can.
                self._lifecycle.fail(instance, stuck)
            except VerlAgentEnvError:
                raise
            except ENV_FAULTS as fault:
                raise self._lifecycle.failure(instance, fault) from fault

    def close(self, env_id: str) -> PendingClose | None:
        """Close an environment that is live or was closed here; see :meth:`~verl_agent_env.engine.host.host.Host.close`."""
        lifecycle = self._lifecycle
        if self._env_table.was_closed(env_id):
            return None
        if self._get(env_id) is None and lifecycle.suspicions.refusal(env_id) is not None:
            # Nothing is left of it that could be closed.
            return None
        instance, recorder = self._find(env_id), self._recorder
        group = lifecycle.end(instance, "closed")
        if group is None or recorder is None:
            return None
        if recorder.answers_early(env_id):
            self._env_table.evict(instance, "closed")
            return None
        return PendingClose(
            recorder.journal.of(instance.slot), env_id, group, None, env_table=self._env_table
        )

    # --- environments whose last call failed ----------------------------------------------------------------

    def _rebuilt(self, instance: LiveEnv) -> Env:
        try:
            env = rebuilt_inline(instance)
        except ENV_FAULTS as fault:
            self._lifecycle.fail(instance, fault, rebuilding=True)
        instance.env = env
        return env

    async def _standing(self, instance: LiveEnv) -> Env:
        """The instance's environment, built anew after a call that failed."""
        if instance.env is None:
            try:
                with calling(instance.call):
                    instance.env = await rebuilt(self._executor, instance)
            except AtCapacityError:
                raise
            except ENV_FAULTS as fault:
                self._lifecycle.fail(instance, fault, rebuilding=True)
        return instance.env

    # --- offloaded calls, one after the other, each to its end ------------------------------------------------

    async def _answered(
        self, instance: LiveEnv, call: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> T:
        """Carry out a call, and give its result when all that it tells of is written; a refusal, too."""
        return await self._to_the_end(self._written, instance, call, *arguments)

    async def _written(
        self, instance: LiveEnv, call: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> T:
        try:
            answer = await call(instance, *arguments)
        except EnvironmentStateError as error:
            return cast("T", await self._lifecycle.hold_back_error(instance, error))
        return await await_maybe(self._lifecycle.hold_back(instance, answer))

    async def _to_the_end(
        self, call: Callable[..., Coroutine[Any, Any, T]], instance: LiveEnv, *arguments: Any
    ) -> T:
        """Carry out a call even if the caller is cancelled: half a call leaves an environment that nobody knows."""
        return await asyncio.shield(self._start(call(instance, *arguments), instance))

    def _start(self, call: Coroutine[Any, Any, T], instance: LiveEnv) -> asyncio.Task[T]:
        context = copy_context()
        context.run(current_tenant.set, tenant_of(instance.env_id, instance.run_id))
        task = asyncio.get_running_loop().create_task(call, context=context)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return task

    @asynccontextmanager
    async def _turn(self, instance: LiveEnv) -> AsyncIterator[None]:
        """First come, first served: calls on one environment that do not run inline wait for each other."""
        if instance.lock is None:
            instance.lock = asyncio.Lock()
        self._env_table.touch(instance)
        began = time.perf_counter()
        async with instance.lock:
            note_wait("queued", began, "environment")
            try:
                self._lifecycle.require_here(instance)
                yield
            except asyncio.CancelledError:
                # The host stops. A thread that still runs closes the environment when it returns.
                if instance.kind.uses_thread:
                    instance.env = None
                raise
            finally:
                self._env_table.touch(instance)
                if instance.closed_as is not None:
                    self._env_table.release(instance)
