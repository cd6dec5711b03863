"""Runs an environment's code where it belongs: inline, in a thread, or as a coroutine; with a time-out on the latter two."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar, cast

import gymnasium
import orjson

from verl_agent_env.engine.execution.slices import Pace
from verl_agent_env.engine.execution.threads import CallTimeoutError, ForeignExitError, Threads
from verl_agent_env.engine.execution.under_way import CallRecord, current_call
from verl_agent_env.envs.effects import Outcomes
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.turns import Turns, current_limit, patiently
from verl_agent_env.wire.actions import brief, calls_in, effects_in, sent_action, with_effects
from verl_agent_env.wire.results import EncodedReset, EncodedStep
from verl_agent_env.wire.suspicions import CallId, Suspicions

logger = logging.getLogger(__name__)

T = TypeVar("T")
Env: TypeAlias = gymnasium.Env[Any, Any]
Options: TypeAlias = bytes | None
"""Options of a reset as JSON: each environment reads its own copy, which it may change."""

ENV_FAULTS = (Exception, SystemExit)
"""What an environment's code may raise without harm to others; a KeyboardInterrupt is the operator's."""


class Executor:
    """Carries out calls of environments and encodes what they return.

    An environment's exceptions come out unchanged, except those that would end more than the call
    (:class:`~verl_agent_env.engine.execution.threads.ForeignExitError`). One that takes longer than ``max_step_s`` raises
    :class:`~verl_agent_env.engine.execution.threads.CallTimeoutError`; if it is a ``StuckCallError``, a thread still runs it and
    closes the environment should it return: nobody else may touch it.

    Whatever is built here and does not come out is closed here. What runs is on record as the task's
    :data:`~verl_agent_env.engine.execution.under_way.current_call`, and of calls that are suspected to end workers one runs at a time.
    """

    def __init__(
        self,
        threads: Threads,
        max_step_s: float,
        record: CallRecord,
        suspicions: Suspicions,
        pace: Callable[[], Pace],
    ) -> None:
        """An executor of nothing yet.

        Args:
            threads: Where calls run that block or compute.
            max_step_s: How long they may take.
            record: Where it is written what is under way.
            suspicions: Which calls may have ended a worker.
            pace: Begins a work of many calls.
        """
        self.record = record
        self.pace = pace
        """Begins a work of many calls, so that others have their turns."""
        self._threads = threads
        self.max_step_s = max_step_s
        self._suspicions = suspicions
        self._alone = Turns(1, "turns of calls that may have ended a worker")
        self._closing: set[asyncio.Task[None]] = set()

    async def begin_again(
        self, kind: EnvKind, arguments: Any, seed: int, options: Options, effects: bytes | None
    ) -> tuple[Env, EncodedReset]:
        """Begin an episode once more, in a new environment.

        Args:
            kind: The environment's.
            arguments: Result of the kind's ``validate``.
            seed: Of the episode.
            options: Of the reset.
            effects: Outcomes, as JSON, that take the place of the calls to the outside that it made.
        """
        given: Outcomes = orjson.loads(effects) if effects is not None else {}
        built, answer, _ = await self.begin(kind, arguments, None, seed, options, see_nothing, given)
        return built, answer

    async def begin(
        self,
        kind: EnvKind,
        arguments: Any,
        env: Env | None,
        seed: int,
        options: Options,
        observe: Callable[[Env], T],
        given: Outcomes | None = None,
    ) -> tuple[Env, EncodedReset, T]:
        """Begin an episode in ``env``, or in a new environment where that is None, and apply ``observe`` to it in the same call.

        Where effects are recorded, ``given`` outcomes take the place of calls to the outside; ``observe`` finds those of the
        calls that were made.
        """
        if kind.execution == "inline":
            with self.record.inline(current_call.get()):
                return begin_inline(kind, arguments, env, seed, options, observe)
        if kind.uses_thread:

            def close_late(outcome: tuple[Env, EncodedReset, T] | None) -> None:
                late = env if outcome is None else outcome[0]
                if late is not None:
                    late.close()

            return await self._in_thread(
                kind, lambda: begin_inline(kind, arguments, env, seed, options, observe, given), close_late
            )
        built: Any = env if env is not None else build(kind, arguments)
        try:
            if kind.records_effects:
                built.begin_effects(given)
            answer = EncodedReset.of(
                *await self._awaited(lambda: built.areset(seed=seed, options=_read_options(options)))
            )
            return built, answer, observe(built)
        except BaseException:
            if env is None:
                self.dispose(kind, built, is_over=given is None)
            raise

    async def apply(
        self,
        kind: EnvKind,
        env: Env,
        action: Any,
        encoded: bytes,
        observe: Callable[[Env, EncodedStep], T],
        *,
        briefly: bool,
    ) -> tuple[bytes, EncodedStep, T]:
        """Apply an action.

        Args:
            kind: The environment's.
            env: The environment.
            action: What to apply.
            encoded: The action as JSON.
            observe: Says something of the environment after the step, as a part of the same call.
            briefly: Whether to record what is read of the action, and not what was sent.

        Returns:
            The action as it is recorded, the answer, and what ``observe`` said.
        """

        waiting: Any = env

        def recorded_with_effects(recorded: bytes) -> bytes:
            return with_effects(recorded, waiting.take_effects()) if kind.records_effects else recorded

        def stepped() -> tuple[bytes, EncodedStep, T]:
            if briefly:
                recorded, answer = step_briefly(env, action, encoded)
            else:
                recorded, answer = encoded, EncodedStep.of(env.step(action))
            return recorded_with_effects(recorded), answer, observe(env, answer)

        if kind.records_effects:
            waiting.begin_effects(None)
        if kind.execution == "async":
            if briefly:
                calls = waiting.calls_of(action)
                recorded, result = brief(encoded, calls), await self._awaited(
                    lambda: waiting.atake_turn(calls)
                )
            else:
                recorded, result = encoded, await self._awaited(lambda: waiting.astep(action))
            answer = EncodedStep.of(result)
            return recorded_with_effects(recorded), answer, observe(env, answer)
        return await self.call(kind, env, stepped)

    async def call(self, kind: EnvKind, env: Env, call: Callable[[], T]) -> T:
        """Run any function on ``env``: at once for an inline kind, else in a thread."""
        return await self.run(kind, call, (lambda _: env.close()) if kind.uses_thread else None)

    async def run(
        self, kind: EnvKind, call: Callable[[], T], late: Callable[[T | None], None] | None = None
    ) -> T:
        """Run any function that runs a kind's code: at once for an inline kind, else in a thread.

        Args:
            kind: The kind.
            call: The function.
            late: Takes what a call that was given up returns in the end, in its thread.
        """
        if kind.execution == "inline":
            with self.record.inline(current_call.get()):
                return call()
        return await self._in_thread(kind, call, late)

    async def restore(self, kind: EnvKind, arguments: Any, snapshot: bytes) -> Env:
        """A new environment with the state of a ``snapshot``."""

        if kind.execution == "inline":
            with self.record.inline(current_call.get()):
                return restore_inline(kind, arguments, snapshot)

        def close_late(env: Env | None) -> None:
            if env is not None:
                env.close()

        return await self._in_thread(kind, lambda: restore_inline(kind, arguments, snapshot), close_late)

    async def play(
        self, kind: EnvKind, env: Env, actions: Sequence[bytes], observe: Callable[[Env, EncodedStep], T]
    ) -> list[tuple[EncodedStep, T]]:
        """Apply recorded actions one after the other; each has the whole time that a call may take.

        The environment is disposed of if any of them fails.

        Returns:
            Of each the answer, and what ``observe`` says of the environment after it.
        """
        played: list[tuple[EncodedStep, T]] = []
        try:
            pace = self.pace()
            for action in actions:
                played.append(await self._step_again(kind, env, action, observe))
                await pace.keep()
        except BaseException as fault:
            self.dispose(kind, env, fault)
            raise
        return played

    async def _step_again(
        self, kind: EnvKind, env: Env, recorded: bytes, observe: Callable[[Env, EncodedStep], T]
    ) -> tuple[EncodedStep, T]:
        waiting: Any = env

        def stepped() -> tuple[EncodedStep, T]:
            answer = step_again(env, recorded)
            return answer, observe(env, answer)

        if kind.records_effects:
            waiting.begin_effects(effects_in(recorded))
        if kind.execution == "async":
            calls = calls_in(recorded)
            answer = EncodedStep.of(
                await self._awaited(
                    lambda: (
                        waiting.astep(sent_action(recorded)) if calls is None else waiting.atake_turn(calls)
                    )
                )
            )
            return answer, observe(env, answer)
        return await self.call(kind, env, stepped)

    def dispose(
        self, kind: EnvKind, env: Env, fault: BaseException | None = None, *, is_over: bool = False
    ) -> None:
        """Let an environment that nobody uses any more free what it holds: in the background if that may block.

        Args:
            kind: The environment's.
            env: The environment.
            fault: What its last call raised. A thread that is stuck with an environment closes it by itself.
            is_over: True if its episode does not go on in another environment, here or elsewhere.
        """
        if isinstance(fault, CallTimeoutError) and kind.uses_thread:
            return
        if kind.execution == "inline":
            close_inline(env)
            return
        task = asyncio.get_running_loop().create_task(
            self._close(kind, env, is_over=is_over), context=patiently()
        )
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @property
    def closing(self) -> set[asyncio.Task[None]]:
        """Tasks that are closing environments."""
        return set(self._closing)

    async def _close(self, kind: EnvKind, env: Env, *, is_over: bool) -> None:
        waiting: Any = env
        try:
            if kind.execution == "async":
                # Only environments of this library's base class have anything that could go on elsewhere.
                keeps = not is_over and kind.is_chat_env
                await self._awaited(waiting.ahand_over if keeps else waiting.aclose)
            else:
                await self._threads.of(kind).run(env.close, self.max_step_s)
        except ENV_FAULTS:
            logger.warning("closing an environment failed", exc_info=True, extra={"env_name": kind.name})

    async def _in_thread(
        self, kind: EnvKind, run: Callable[[], T], close_late: Callable[[T | None], None] | None
    ) -> T:
        call = current_call.get()
        async with self._turn_of(call):
            return await self._threads.of(kind).run(
                self.record.noting(call, run), self.max_step_s, close_late
            )

    @asynccontextmanager
    async def _turn_of(self, call: CallId | None) -> AsyncIterator[None]:
        """Wait until no other call is under way that may have ended a worker, if this one may have.

        Raises:
            AtCapacityError: Others have had their turns for too long.
        """
        if call is None or not self._suspicions.runs_alone(call):
            yield
            return
        async with self._alone.place():
            yield

    async def _awaited(self, begin: Callable[[], Awaitable[T]]) -> T:
        call = current_call.get()
        async with self._turn_of(call):
            with self.record.apart(call):
                return await self._within_limit(begin())

    async def _within_limit(self, awaitable: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self.max_step_s) as limit:
                counting = current_limit.set(limit)
                try:
                    return await awaitable
                finally:
                    current_limit.reset(counting)
        except TimeoutError:
            if limit.expired():
                raise CallTimeoutError from None
            raise
        except asyncio.CancelledError as cancelled:
            # Nobody cancelled this task: it was one of the environment's own that came to its end.
            task = asyncio.current_task()
            if task is not None and task.cancelling() == 0:
                raise ForeignExitError(cancelled) from cancelled
            raise


def build(kind: EnvKind, arguments: Any) -> Env:
    """A new environment, which shares nothing that it could change with others."""
    return kind.build(arguments if kind.is_chat_env else copy.deepcopy(arguments))


def reset_inline(
    kind: EnvKind,
    arguments: Any,
    env: Env | None,
    seed: int,
    options: Options,
    given: Outcomes | None = None,
) -> tuple[Env, EncodedReset]:
    """Begin an episode, here and now."""
    built: Any = env if env is not None else build(kind, arguments)
    try:
        if kind.records_effects:
            built.begin_effects(given)
        return built, EncodedReset.of(*built.reset(seed=seed, options=_read_options(options)))
    except BaseException:
        if env is None:
            close_inline(built)
        raise


def begin_inline(
    kind: EnvKind,
    arguments: Any,
    env: Env | None,
    seed: int,
    options: Options,
    observe: Callable[[Env], T],
    given: Outcomes | None = None,
) -> tuple[Env, EncodedReset, T]:
    """Begin an episode, and see what ``observe`` says of it, here and now."""
    built, answer = reset_inline(kind, arguments, env, seed, options, given)
    try:
        return built, answer, observe(built)
    except BaseException:
        if env is None:
            close_inline(built)
        raise


def restore_inline(kind: EnvKind, arguments: Any, state: bytes) -> Env:
    """Build an environment with this ``state``, here and now."""
    env: Any = build(kind, arguments)
    try:
        env.restore(state)
    except BaseException:
        close_inline(env)
        raise
    return cast("Env", env)


def step_briefly(env: Any, action: Any, encoded: bytes) -> tuple[bytes, EncodedStep]:
    """Apply an action, here and now; gives what was read of it, to be recorded, and the answer."""
    calls = env.calls_of(action)
    return brief(encoded, calls), EncodedStep.of(env.take_turn(calls))


def step_again(env: Any, recorded: bytes) -> EncodedStep:
    """Apply a recorded action, here and now."""
    calls = calls_in(recorded)
    return EncodedStep.of(env.step(sent_action(recorded)) if calls is None else env.take_turn(calls))


def play_inline(env: Env, actions: Sequence[bytes]) -> None:
    """Apply recorded actions one after the other, here and now; the environment is closed if any of them fails."""
    try:
        for action in actions:
            step_again(env, action)
    except BaseException:
        close_inline(env)
        raise


def close_inline(env: Env) -> None:
    """Let an environment free what it holds, here and now."""
    try:
        env.close()
    except ENV_FAULTS:
        logger.warning("closing an environment failed", exc_info=True)


def see_nothing(*_: Any) -> None:
    """Observe nothing."""


def _read_options(options: Options) -> dict[str, Any] | None:
    return None if options is None else orjson.loads(options)
