"""Lifecycle of environments: creation, disposal, and the errors that their failures come to."""

from __future__ import annotations

import logging
import random
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import orjson
from msgspec import structs

from verl_agent_env.config import HostLimits
from verl_agent_env.engine.environments.env_table import EnvTable
from verl_agent_env.engine.environments.live_env import MOVED, Beginning, LiveEnv
from verl_agent_env.engine.environments.marks import NO_MARK, Mark
from verl_agent_env.engine.episodes.collector import EpisodeCollector
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Env, Executor
from verl_agent_env.engine.execution.threads import CallTimeoutError, ForeignExitError
from verl_agent_env.engine.execution.under_way import calling
from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.group_commit.pending import PendingAnswer, await_maybe
from verl_agent_env.engine.persistence.recorder import Recorder
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    ActionTooLargeError,
    AnswerTooLargeError,
    ArgumentsTooLargeError,
    EnvironmentFailedError,
    EnvironmentLostError,
    EnvironmentStateError,
    EnvironmentTimeoutError,
    HistoryFullError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    MemoryExhaustedError,
    MovedError,
    OutsideCallError,
    ShuttingDownError,
    VerlAgentEnvError,
)
from verl_agent_env.seeds import following_seed
from verl_agent_env.types import new_env_id, slot_of, tag_of
from verl_agent_env.wire.codec import encode_kept
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep, size_of
from verl_agent_env.wire.suspicions import Suspicions
from verl_agent_env.wire.task_results import ResultTable, TaskResult, arguments_digest, run_key, task_key

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Request for one new environment."""

    env_name: str
    seed: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    ttl_s: float | None = None
    env_id: str | None = None
    """Id of the environment, in a slot of this worker; a new one if not given. An id that is live already is answered
    as it was when it was made."""
    tag: str = ""
    """Of its holder, for a new id; see :func:`~verl_agent_env.types.tagged_env_id`."""


class CheckedKind(NamedTuple):
    """Checked name and keyword arguments of a request, which others with the same ones may share."""

    kind: EnvKind
    """The one under which environments with these arguments run."""
    arguments: Any
    """Result of the kind's ``validate``."""
    computing_ms: float
    """About how many milliseconds an environment computes in a thread until its first episode has begun."""


class Lifecycle:
    """Creates and disposes of the environments of one host."""

    def __init__(
        self,
        registry: Registry,
        limits: HostLimits,
        env_table: EnvTable,
        executor: Executor,
        clock: Callable[[], float],
        num_slots: int,
        suspicions: Suspicions,
        recorder: Recorder | None,
        owns: Callable[[int], bool],
        collector: EpisodeCollector | None = None,
    ) -> None:
        self.limits = limits
        self.suspicions = suspicions
        self.env_table = env_table
        self.executor = executor
        self.clock = clock
        self.recorder = recorder
        """Records what happens to the environments, if they are kept outside this process."""
        self.collector = collector
        self.owns = owns
        """Whether this worker may act for a slot now: it is its own, and the lease is good."""
        self.faults: Counter[tuple[str, str]] = Counter()
        """Calls that failed in the environment's own code, by env name and kind of fault."""
        self.results = ResultTable()
        """Results of tasks, if the environments are not kept outside this process."""
        self.is_stopping = False
        """Whether no more environments may begin."""
        self._registry = registry
        self._num_slots = num_slots

    def check(self, request: CreateRequest) -> CheckedKind:
        """Check the name and the keyword arguments of a request.

        Raises:
            UnknownEnvNameError, InvalidEnvArgumentsError: It cannot be built.
            EnvironmentFailedError: Its module or its check of arguments raised.
        """
        try:
            kind = self._registry.kind(request.env_name)
            arguments = kind.validate(request.env_kwargs)
            fitting = kind.fitting(arguments)
            computing_ms = kind.cost_ms(arguments) if fitting.execution == "compute" else 0.0
            return CheckedKind(fitting, arguments, computing_ms)
        except VerlAgentEnvError:
            raise
        except ENV_FAULTS as fault:
            # A module that cannot be imported, a validator that raises what it should not.
            logger.warning(
                "environment kind is unusable: its module or its check of arguments raised",
                exc_info=True,
                extra={"env_name": request.env_name},
            )
            raise EnvironmentFailedError("", type(fault).__name__) from fault

    def prepare(self, request: CreateRequest, checked: CheckedKind | None = None) -> LiveEnv:
        """An instance without an environment yet, once what is asked for was checked.

        Args:
            request: What is asked for.
            checked: Result of :meth:`check`, if it is known.

        Raises:
            ArgumentsTooLargeError: It cannot be kept.
            ShuttingDownError: The host stops.
            EnvironmentEndedWorkerError: A worker ended over the making of this very environment.
            VerlAgentEnvError: As :meth:`check`.
        """
        if self.is_stopping:
            raise ShuttingDownError
        refusal = None if request.env_id is None else self.suspicions.refusal(request.env_id)
        if refusal is not None:
            raise refusal
        kind, arguments, _ = checked or self.check(request)
        ttl_s = request.ttl_s if request.ttl_s is not None else self.limits.default_ttl_s
        env_id = request.env_id or self._new_env_id(request.tag)
        instance = LiveEnv(env_id, kind, arguments, request.run_id, ttl_s)
        if request.run_id is not None:
            instance.arguments_digest = sys.intern(arguments_digest(request.env_kwargs))
        if self.recorder is not None:
            self.recorder.prepare(instance, request.env_kwargs, self.limits.max_arguments_bytes)
        elif self.collector is not None:
            instance.env_kwargs = request.env_kwargs
        return instance

    def _new_env_id(self, tag: str) -> str:
        return new_env_id(random.getrandbits(16) % self._num_slots, tag, self._num_slots)

    def add(self, instance: LiveEnv, epoch: int | None = None) -> bool:
        """Make a new environment live; returns whether it is: one that came back meanwhile under its id stays.

        Args:
            instance: It.
            epoch: The slot's, when its making began; None if nothing can have come between.

        Raises:
            MovedError: The slot went to another worker during the making. That worker may hold the environment; this one does not.
        """
        slot = slot_of(instance.env_id)
        if not self.owns(slot) or epoch not in (None, self.env_table.epoch_of(slot)):
            self.env_table.release(instance, is_known=False)
            raise MovedError(slot)
        if self.env_table.get(instance.env_id) is not None:
            self.env_table.release(instance, is_known=False)
            return False
        self.env_table.add(instance)
        if self.recorder is not None:
            self.recorder.created(instance)
        return True

    def begun(
        self,
        instance: LiveEnv,
        seed: int,
        options: bytes | None,
        answer: EncodedReset,
        mark: Mark,
        operation: bytes = b"",
        *,
        is_recorded: bool = True,
    ) -> None:
        """Note that an episode has begun, and record it unless it is recorded with what follows."""
        if self.collector is not None and self.env_table.get(instance.env_id) in (None, instance):
            self.collector.begun(instance, answer)
        instance.begin(seed, options, answer, self.limits.max_journal_bytes, operation, mark)
        self.env_table.touch(instance)
        if self.recorder is not None:
            if mark.fault is not None:
                self.recorder.note_fault(instance, mark.fault)
            if instance.episode and is_recorded:
                self.recorder.begun(instance)

    def count_result(self, instance: LiveEnv, answer: EncodedStep) -> None:
        """Count the result of an episode that has just ended, if its environment belongs to a run."""
        if instance.run_id is None:
            return
        result = TaskResult(
            run_key(instance.run_id, tag_of(instance.env_id)),
            task_key(instance.kind.name, instance.arguments_digest, instance.seed),
            orjson.loads(answer.info).get("success") is True,
            instance.reward_sum,
        )
        if self.recorder is None:
            self.results.add(result)
        else:
            self.recorder.finished(instance, result)

    def require_room(self, instance: LiveEnv) -> None:
        """Make sure that the episode may have another step.

        Raises:
            HistoryFullError: It may not: it goes to a journal, which has as much of it as may be.
        """
        if instance.history_bytes > self.limits.max_kept_bytes and instance.is_journalled:
            raise HistoryFullError(instance.env_id, self.limits.max_kept_bytes)

    def require_short(self, answer: EncodedStep | EncodedReset) -> None:
        """Refuse what an environment has answered, as if its code had raised: what led to it does not count then.

        Raises:
            AnswerTooLargeError: It is longer than may be.
        """
        size, limit = size_of(answer), self.limits.max_answer_bytes
        if size > limit:
            raise AnswerTooLargeError(limit, size)

    def mark_beginning(self, instance: LiveEnv, env: Env) -> Mark:
        """Read of an episode that has just begun what is recorded of it."""
        mark = NO_MARK if self.recorder is None else self.recorder.mark_beginning(instance, env)
        outcomes = cast("ChatEnv", env).take_effects() if instance.kind.records_effects else None
        return structs.replace(mark, effects=encode_kept(outcomes)) if outcomes else mark

    async def created_before(self, instance: LiveEnv, request: CreateRequest) -> Created:
        """Answer as when the environment was made, if it is the one that ``request`` asks for.

        Raises:
            IdempotencyKeyReusedError: It is another environment.
            EnvironmentClosedError, MovedError: Its end was being written.
        """
        if instance.ending is not None:
            await self.require_alive(instance)
        kwargs, is_first = instance.env_kwargs, instance.episode == 0
        seed = request.seed if request.seed is not None else instance.seed
        if (
            instance.kind.name != self._registry.kind(request.env_name).name
            or (kwargs is not None and kwargs != request.env_kwargs)
            or (is_first and seed != instance.seed)
        ):
            raise IdempotencyKeyReusedError
        self.env_table.touch(instance)
        answer = await self.shown_again(
            instance, instance.began() if is_first else Beginning(b"", seed, None)
        )
        return await await_maybe(self.hold_back(instance, Created(instance.env_id, answer)))

    async def shown_again(self, instance: LiveEnv, begun: Beginning) -> EncodedReset:
        """Give once more what was answered when an episode of the environment began."""
        if begun.answer is not None:
            return begun.answer
        with calling(instance.call):
            env, answer = await self.executor.begin_again(
                instance.kind, instance.arguments, begun.seed, begun.options, begun.effects
            )
        self.executor.dispose(instance.kind, env)
        return answer

    def hold_back(self, instance: LiveEnv, answer: T) -> T | PendingAnswer[T]:
        """Hold back the answer of a call until all that happened to its environment is written, if that is not yet so."""
        return answer if self.recorder is None else self.recorder.hold_back(instance, answer)

    def hold_back_error(self, instance: LiveEnv, error: EnvironmentStateError) -> PendingAnswer[Any]:
        """Hold back a refusal, which tells of earlier calls; raise it if there is nothing to wait for."""
        if self.recorder is None:
            raise error
        return self.recorder.hold_back_error(instance, error)

    async def require_alive(self, instance: LiveEnv) -> None:
        """Raise as :meth:`LiveEnv.require_alive` does, but not before what the error tells of is written."""
        try:
            instance.require_alive()
        except EnvironmentStateError as error:
            await self.hold_back_error(instance, error)

    def fail(self, instance: LiveEnv, fault: BaseException, *, rebuilding: bool = False) -> NoReturn:
        """Drop the environment of a failed call, and say whether it comes back.

        Raises:
            MovedError: Another worker owns the environment by now, or may: the failure here does not concern that one.
            EnvironmentLostError: It does not come back.
            EnvironmentFailedError, EnvironmentTimeoutError, AnswerTooLargeError, OutsideCallError,
                MemoryExhaustedError: It does.
        """
        error = self.failure(instance, fault)
        self.env_table.release(instance, fault)
        if instance.closed_as == MOVED or not (
            instance.is_not_durable or self.owns(slot_of(instance.env_id))
        ):
            self._send_away(instance)
        self.env_table.touch(instance)
        if isinstance(error, MemoryExhaustedError) and instance.replayable:
            # The environment is not to blame: it is built anew once there is memory again.
            rebuilding = False
        if instance.episode >= 0 and (rebuilding or not instance.replayable):
            if isinstance(error, EnvironmentTimeoutError):
                instance.lost = f"it took longer than {error.max_step_s:g} s"
            elif isinstance(error, AnswerTooLargeError):
                instance.lost = f"it answered with {error.size} bytes, more than {error.max_answer_bytes}"
            elif isinstance(error, MemoryExhaustedError):
                instance.lost = "its worker was out of memory in one of its calls"
            else:
                instance.lost = f"its code raised {error.fields().get('error')}"
            raise EnvironmentLostError(instance.env_id, instance.lost) from fault
        raise error from fault

    def require_here(self, instance: LiveEnv) -> None:
        """Raise when this worker may not act for the environment at present; asked after every wait, before it is used.

        Raises:
            MovedError: Another worker owns it by now, or may.
        """
        slot = slot_of(instance.env_id)
        if not self.owns(slot):
            raise MovedError(slot)

    def require_counted(self, instance: LiveEnv) -> None:
        """Raise when what the environment's code has done just now does not count.

        Where the answer waits for a write, the log refuses that if need be; any other answer only the owner may give.

        Raises:
            MovedError: Another worker owns the environment by now, or may.
        """
        is_relaxed = instance.durability == "relaxed"
        if instance.closed_as == MOVED or (is_relaxed and not self.owns(slot_of(instance.env_id))):
            self._send_away(instance)

    def _send_away(self, instance: LiveEnv) -> NoReturn:
        """Forget an environment whose last call does not count: its state in memory is not the one in the log."""
        if self.env_table.get(instance.env_id) is instance:
            self.env_table.evict(instance, MOVED)
        raise MovedError(slot_of(instance.env_id))

    def failure(self, instance: LiveEnv, fault: BaseException) -> VerlAgentEnvError:
        """The error to answer with when an environment's own code failed, counted and logged."""
        error: VerlAgentEnvError
        if isinstance(fault, CallTimeoutError):
            kind_of_fault = "timeout"
            error = EnvironmentTimeoutError(instance.env_id, self.limits.max_step_s)
        elif isinstance(fault, AnswerTooLargeError | OutsideCallError):
            kind_of_fault, error = fault.code, fault
        elif isinstance(fault, MemoryError):
            error = MemoryExhaustedError()
            kind_of_fault = error.code
        else:
            kind_of_fault = "exception"
            name = fault.name if isinstance(fault, ForeignExitError) else type(fault).__name__
            error = EnvironmentFailedError(instance.env_id, name)
        self.faults[instance.kind.name, kind_of_fault] += 1
        logger.warning(
            "environment call failed: %s",
            kind_of_fault,
            exc_info=fault if kind_of_fault == "exception" else None,
            extra={"env_id": instance.env_id, "env_name": instance.kind.name},
        )
        return error

    def is_idle(self, instance: LiveEnv) -> bool:
        """Tell whether nobody has used the environment for its whole ttl."""
        return not instance.is_busy and self.clock() - instance.last_used > instance.ttl_s

    def end(self, instance: LiveEnv, reason: str) -> Group | None:
        """Close an environment: at once, or where environments are kept, when that is written.

        Returns:
            What it is written with; None when it is closed already.
        """
        if self.recorder is None:
            self.env_table.evict(instance, reason)
            return None
        self.env_table.touch(instance)
        return self.recorder.closed(instance, reason)


def encode_action(action: Any, max_bytes: int) -> bytes:
    """Write an action as JSON, to be kept.

    Raises:
        InvalidRequestError: It is nested too deeply.
        ActionTooLargeError: It takes more than ``max_bytes``.
    """
    try:
        # Copied for the reason that ``encode_kept`` names; what came as JSON needs none of its options.
        encoded = b"%b" % orjson.dumps(action)
    except TypeError:
        raise _not_kept("action") from None
    if len(encoded) > max_bytes:
        raise ActionTooLargeError(len(encoded), max_bytes)
    return encoded


def encode_options(options: Mapping[str, Any] | None, max_bytes: int) -> bytes | None:
    """Write the options of a reset as JSON, to be kept; ``None`` where there are none.

    Raises:
        InvalidRequestError: They are nested too deeply.
        ArgumentsTooLargeError: They take more than ``max_bytes``.
    """
    if options is None:
        return None
    try:
        encoded = b"%b" % orjson.dumps(options)
    except TypeError:
        raise _not_kept("options") from None
    if len(encoded) > max_bytes:
        raise ArgumentsTooLargeError(len(encoded), max_bytes)
    return encoded


def _not_kept(name: str) -> InvalidRequestError:
    """The error for JSON that can be read but not written: nested more than 250 levels deep."""
    return InvalidRequestError([{"loc": [name], "msg": "cannot be kept as JSON; nest it less deeply"}])


def first_seed(request: CreateRequest) -> int:
    """Seed of the first episode: the one asked for, or any."""
    return request.seed if request.seed is not None else secrets.randbits(53)


def next_seed(instance: LiveEnv, seed: int | None) -> int:
    """Seed of the next episode: the one asked for, or the one that follows.

    The first reset after creation, which has begun the first episode already, begins this one: as in Gymnasium, where an
    environment that was made with a seed has no episode before its first reset.
    """
    if seed is not None:
        return seed
    is_untouched = instance.episode == 0 and instance.seq == 0
    return instance.seed if is_untouched else following_seed(instance.seed)
