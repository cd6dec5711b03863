"""Plays actions at the beginning of an episode, in an environment that nobody else knows yet: all of them, or nothing happens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from verl_agent_env.engine.calls.lifecycle import Lifecycle, encode_action, encode_options
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.environments.marks import NO_MARK, Mark
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Env, Executor
from verl_agent_env.engine.execution.under_way import calling
from verl_agent_env.errors import (
    AnswerTooLargeError,
    HistoryFullError,
    InvalidRequestError,
    VerlAgentEnvError,
)
from verl_agent_env.wire.actions import MAX_WHOLE_BYTES, identity_of
from verl_agent_env.wire.results import EncodedReset, EncodedStep, PlayedBeginning, size_of


class FirstStep(NamedTuple):
    """A step that was played, and what is noted of it."""

    identity: bytes
    recorded: bytes
    answer: EncodedStep
    mark: Mark


class FirstSteps(NamedTuple):
    """An environment after its first steps."""

    env: Env
    options: bytes | None
    answer: EncodedReset
    mark: Mark
    steps: list[FirstStep]

    @property
    def beginning(self) -> PlayedBeginning:
        """Answers of the reset and of all steps."""
        return PlayedBeginning(self.answer, [step.answer for step in self.steps])


async def play_first(
    executor: Executor,
    lifecycle: Lifecycle,
    instance: LiveEnv,
    seed: int,
    options: dict[str, Any] | None,
    actions: Sequence[Any],
) -> FirstSteps:
    """Begin an episode in a new environment of an instance's kind, and carry out actions in it; the instance stays as it is.

    Raises:
        InvalidRequestError: The kind does not repeat its episodes, or the episode ends before the last action.
        ActionTooLargeError, AnswerTooLargeError, ArgumentsTooLargeError, HistoryFullError: It would be too long.
        EnvironmentFailedError, EnvironmentTimeoutError: The environment's code raised or hung.
    """
    kind, limits = instance.kind, lifecycle.limits
    if not kind.deterministic:
        raise _fault("actions", "this environment does not repeat its episodes: carry them out one by one")
    encoded = [encode_action(action, limits.max_action_bytes) for action in actions]
    if sum(map(len, encoded)) > limits.max_kept_bytes:
        raise HistoryFullError(instance.env_id, limits.max_kept_bytes)
    given = encode_options(options, limits.max_arguments_bytes)
    observe = partial(lifecycle.mark_beginning, instance)
    env: Env | None = None
    try:
        with calling(instance.next_beginning):
            env, answer, mark = await executor.begin(kind, instance.arguments, None, seed, given, observe)
            steps = await _play(executor, lifecycle, instance, env, actions, encoded, size_of(answer))
        return FirstSteps(env, given, answer, mark, steps)
    except BaseException as fault:
        if env is not None:
            executor.dispose(kind, env, fault)
        if isinstance(fault, VerlAgentEnvError) or not isinstance(fault, ENV_FAULTS):
            raise
        raise lifecycle.failure(instance, fault) from fault


async def _play(
    executor: Executor,
    lifecycle: Lifecycle,
    instance: LiveEnv,
    env: Env,
    actions: Sequence[Any],
    encoded: Sequence[bytes],
    size: int,
) -> list[FirstStep]:
    limit, pace = lifecycle.limits.max_answer_bytes, executor.pace()
    steps: list[FirstStep] = []
    for number, (action, written) in enumerate(zip(actions, encoded, strict=True)):
        if steps and (steps[-1].answer.terminated or steps[-1].answer.truncated):
            raise _fault(number, "the episode has ended before this action")
        identity = written if len(written) <= MAX_WHOLE_BYTES else identity_of(written)

        def mark(played: Env, answer: EncodedStep, seq: int = number) -> Mark:
            recorder = lifecycle.recorder
            return NO_MARK if recorder is None else recorder.mark(instance, played, answer, seq)

        briefly = identity is not written and instance.records_calls
        recorded, answer, noted = await executor.apply(
            instance.kind, env, action, written, mark, briefly=briefly
        )
        size += size_of(answer)
        if size > limit:
            raise AnswerTooLargeError(limit, size)
        steps.append(FirstStep(identity, recorded, answer, noted))
        await pace.keep()
    return steps


def _fault(place: str | int, message: str) -> InvalidRequestError:
    return InvalidRequestError(
        [{"loc": ["actions", place] if isinstance(place, int) else [place], "msg": message}]
    )
