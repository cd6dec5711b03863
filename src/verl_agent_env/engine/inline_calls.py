"""Calls on environments whose code runs at once, on the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from verl_agent_env.engine.execution import ENV_FAULTS, Env, begin_inline, reset_inline, step_briefly
from verl_agent_env.engine.instance import Beginning, Instance
from verl_agent_env.engine.lifecycle import (
    CreateRequest,
    Lifecycle,
    encode_action,
    encode_options,
    first_seed,
    next_seed,
)
from verl_agent_env.engine.marks import NO_MARK
from verl_agent_env.engine.rebuilding import rebuilt_inline
from verl_agent_env.errors import InvalidEnvArgumentsError, VerlAgentEnvError
from verl_agent_env.wire.actions import MAX_WHOLE_BYTES, identity_of
from verl_agent_env.wire.results import EncodedReset, EncodedStep
from verl_agent_env.wire.suspicions import BEGINNING

T = TypeVar("T")


class InlineCalls:
    """The calls, none of which waits for anything: nothing can come between."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._limits, self._clock = lifecycle.limits, lifecycle.clock
        record = lifecycle.executor.record
        self._record = record
        self._note, self._state = record.note_inline, record.inline_state

    def create(self, instance: Instance, request: CreateRequest) -> tuple[str, EncodedReset]:
        """Make the environment, and begin its first episode."""
        with self._lifecycle.directory.reserved(instance):
            answer = self._begin(instance, first_seed(request), None)
        self._lifecycle.add(instance)
        return instance.env_id, answer

    def reset(
        self, instance: Instance, seed: int | None, options: dict[str, Any] | None, operation: bytes
    ) -> EncodedReset:
        """Begin another episode, or answer again how the present one began."""
        begun = instance.admit_reset(operation)
        if begun is not None:
            return self._shown_again(instance, begun)
        return self._begin(instance, next_seed(instance, seed), options, operation)

    def step(self, instance: Instance, action: Any, seq: int | None, operation: bytes) -> EncodedStep:
        """Apply an action, or answer it again as it was."""
        instance.last_used = self._clock()
        limits, recorder, note = self._limits, self._lifecycle.recorder, self._note
        encoded = encode_action(action, limits.max_action_bytes)
        identity = encoded if len(encoded) <= MAX_WHOLE_BYTES else identity_of(encoded)
        stored = instance.admit(identity, seq, operation)
        if stored is not None:
            return stored
        if recorder is not None and instance.durability == "relaxed":
            # Its answer waits for no write that would be refused.
            self._lifecycle.require_here(instance)
        if instance.history_bytes > limits.max_kept_bytes:
            self._lifecycle.require_room(instance)
        if note is not None:
            # As CallRecord.inline has it known, for a tenth of the price.
            note(instance.env_id.encode(), instance.episode, instance.seq, 1)
        try:
            env = instance.env if instance.env is not None else self._rebuilt(instance)
            try:
                if identity is not encoded and instance.records_calls:
                    encoded, answer = step_briefly(env, action, encoded)
                else:
                    answer = EncodedStep.of(env.step(action))
                # As Lifecycle.require_short, without a call.
                if len(answer.observation) + len(answer.info) > limits.max_answer_bytes:
                    self._lifecycle.require_short(answer)
                mark = NO_MARK if recorder is None else recorder.mark(instance, env, answer)
            except ENV_FAULTS as fault:
                self._lifecycle.fail(instance, fault)
        finally:
            if note is not None:
                self._state[0] = 0
        instance.commit(identity, answer, limits.max_journal_bytes, operation, mark, encoded)
        if recorder is not None:
            recorder.stepped(instance, encoded, mark)
        return answer

    def read(self, instance: Instance, read: Callable[[Any], T]) -> T:
        """What ``read`` says of the environment."""
        instance.require_alive()
        self._lifecycle.directory.touch(instance)
        with self._record.inline(instance.call):
            env = instance.env if instance.env is not None else self._rebuilt(instance)
            try:
                return read(env)
            except VerlAgentEnvError:
                raise
            except ENV_FAULTS as fault:
                raise self._lifecycle.failure(instance, fault) from fault

    def _shown_again(self, instance: Instance, begun: Beginning) -> EncodedReset:
        if begun.answer is not None:
            return begun.answer
        with self._record.inline(instance.call):
            try:
                env, answer = reset_inline(instance.kind, instance.arguments, None, begun.seed, begun.options)
            except ENV_FAULTS as fault:
                raise self._lifecycle.failure(instance, fault) from fault
            self._lifecycle.executor.dispose(instance.kind, env)
        return answer

    def _begin(
        self, instance: Instance, seed: int, options: dict[str, Any] | None, operation: bytes = b""
    ) -> EncodedReset:
        encoded = encode_options(options, self._lifecycle.limits.max_arguments_bytes)
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

    def _rebuilt(self, instance: Instance) -> Env:
        try:
            env = rebuilt_inline(instance)
        except ENV_FAULTS as fault:
            self._lifecycle.fail(instance, fault, rebuilding=True)
        instance.env = env
        return env
