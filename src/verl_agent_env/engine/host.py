"""The host: owns the live environments of one worker and carries out what is asked of them."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import orjson

from verl_agent_env.config import HostLimits
from verl_agent_env.engine.directory import MOVED, Directory
from verl_agent_env.engine.execution import ENV_FAULTS, Env, Executor, replay_inline, reset_inline
from verl_agent_env.engine.instance import Instance
from verl_agent_env.engine.journal import Journal, Tenure
from verl_agent_env.engine.keeper import Keeper
from verl_agent_env.engine.threads import CallTimeoutError, ForeignExitError, ThreadRunner
from verl_agent_env.envs.base import Durability
from verl_agent_env.envs.registry import Registry
from verl_agent_env.envs.rng import following_seed
from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentClosedError,
    EnvironmentFailedError,
    EnvironmentLostError,
    EnvironmentNotFoundError,
    EnvironmentTimeoutError,
    IdempotencyKeyReusedError,
    InvalidEnvArgumentsError,
    InvalidRequestError,
    MovedError,
    ShuttingDownError,
    VerlAgentEnvError,
)
from verl_agent_env.types import NUM_SLOTS, new_env_id, slot_of
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer
from verl_agent_env.wire.log import Log

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What it takes to make one environment."""

    env_name: str
    seed: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    ttl_s: float | None = None
    env_id: str | None = None
    """Id of the environment, in a slot of this worker; a new one if not given. An id that lives already is answered
    as it was when it was made."""


class Host:
    """Live environments and the calls on them; steps of one environment never overlap.

    An environment that raises or hangs fails its own call only: one that can be replayed stands afterwards where it
    stood before, any other one is lost. A call that has begun is carried out to its end, also when its caller goes
    away: whoever asks again finds it done. All methods belong to one event loop.
    """

    def __init__(
        self,
        registry: Registry,
        limits: HostLimits,
        *,
        name: str = "local",
        clock: Callable[[], float] = time.monotonic,
        pick_slot: Callable[[], int] = lambda: random.getrandbits(12) % NUM_SLOTS,
        unknown: Callable[[str], VerlAgentEnvError] = EnvironmentNotFoundError,
    ) -> None:
        self.name = name
        self.registry = registry
        self.limits = limits
        self.directory = Directory(limits, clock, unknown)
        self.faults: Counter[tuple[str, str]] = Counter()
        """Calls that failed in the environment's own code, by env name and kind of fault."""
        self.clock = clock
        self._pick_slot = pick_slot
        self.keeper: Keeper | None = None
        """Keeps the environments outside this process, if they are kept."""
        self._threads = ThreadRunner(limits.max_threads, limits.max_stuck_threads)
        self.executor = Executor(self._threads, limits.max_step_s)
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def keep(self, log: Log, tenure: Tenure, durabilities: Mapping[str, Durability]) -> Journal:
        """Keep the environments in ``log`` from now on, as far as ``tenure`` gives their slots to this worker.

        Returns:
            The journal, which somebody has to run.
        """
        self.keeper = Keeper(log, tenure, self, durabilities)
        return self.keeper.journal

    # --- calls on one environment ---------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> tuple[str, ResetAnswer]:
        """Make an environment and begin its first episode.

        Returns:
            Its id, and the beginning of the episode.

        Raises:
            UnknownEnvNameError, InvalidEnvArgumentsError: Nothing was built.
            IdempotencyKeyReusedError, EnvironmentClosedError: Under this id there is another one, or was one.
            AtCapacityError, RunQuotaExceededError, ShuttingDownError: No room.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
        """
        if request.env_id is not None:
            if self.keeper is not None:
                self._require_said(request.env_id, await self.ensure([request.env_id]))
            if self._is_known(request.env_id):
                return request.env_id, await self._beginning(self.directory.find(request.env_id), request)
        instance = self._prepare(request)
        if instance.kind.execution == "inline":
            created = self._create_inline(instance, request)
            await self._kept(instance)
            return created
        try:
            return await self._to_the_end(self._create_apart(instance, request))
        except asyncio.CancelledError:
            # Nobody will ever learn its id.
            if self.directory.get(instance.env_id) is instance:
                self._dismiss(instance, "closed")
            else:
                instance.closed_as = "closed"
            raise

    def create_now(self, request: CreateRequest) -> tuple[str, ResetAnswer] | None:
        """As :meth:`create`, at once; ``None`` if that cannot be, with nothing done."""
        if request.env_id is not None and self._is_known(request.env_id):
            return None
        instance = self._prepare(request)
        return self._create_inline(instance, request) if instance.kind.execution == "inline" else None

    async def reset(
        self, env_id: str, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> ResetAnswer:
        """Begin an episode.

        Without a seed, an episode in which nothing was done yet begins anew; otherwise the one that follows begins.
        So a repeated reset does no harm.

        Raises:
            EnvironmentStateError: The environment is unknown, closed or lost.
            InvalidEnvArgumentsError: The environment does not take the options; the episode goes on unchanged.
            InvalidRequestError: The options cannot be kept as JSON.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
        """
        instance = await self._found(env_id)
        if instance.kind.execution == "inline":
            answer = self._reset_inline(instance, seed, options)
            await self._kept(instance)
            return answer
        return await self._to_the_end(self._reset_apart(instance, seed, options))

    def reset_now(
        self, env_id: str, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> ResetAnswer | None:
        """As :meth:`reset`, at once; ``None`` for an environment that does not run inline, with nothing done."""
        instance = self.directory.find(env_id)
        return self._reset_inline(instance, seed, options) if instance.kind.execution == "inline" else None

    async def step(
        self, env_id: str, action: Any, seq: int | None = None, operation: bytes = b""
    ) -> StepAnswer:
        """Apply an action; one that was applied before, as ``seq`` or by the same ``operation``, is answered as then.

        Args:
            env_id: The environment.
            action: JSON.
            seq: Number of the step within the episode, if the client numbers them.
            operation: Id of the request, the same when it is sent again; empty if it has none.

        Raises:
            EnvironmentStateError: The environment is unknown, closed, lost, its episode over, or ``seq`` is not next.
            InvalidRequestError: The action cannot be kept as JSON.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung; the step was not applied.
        """
        if self.keeper is None:
            answer = self.step_now(env_id, action, seq, operation)
            if answer is not None:
                return answer
        instance = await self._found(env_id)
        if instance.kind.execution == "inline":
            answer = self._step_inline(instance, action, seq, operation)
            await self._kept(instance)
            return answer
        return await self._to_the_end(self._step_apart(instance, action, seq, operation))

    def step_now(
        self, env_id: str, action: Any, seq: int | None = None, operation: bytes = b""
    ) -> StepAnswer | None:
        """As :meth:`step`, at once; ``None`` for an environment that does not run inline, with nothing done."""
        instance = self.directory.find(env_id)
        if instance.kind.execution != "inline":
            return None
        return self._step_inline(instance, action, seq, operation)

    async def read(self, env_id: str, read: Callable[[Any], T]) -> T:
        """What ``read`` says of the environment, which stands still meanwhile and is not changed.

        Raises:
            EnvironmentStateError: The environment is unknown, closed or lost.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
            VerlAgentEnvError: As ``read`` raises it.
        """
        instance = await self._found(env_id)
        if instance.kind.execution != "inline":
            return await self._to_the_end(self._read_apart(instance, read))
        instance.require_alive()
        self.directory.touch(instance)
        env = instance.env if instance.env is not None else self._rebuilt_inline(instance)
        try:
            return read(env)
        except VerlAgentEnvError:
            raise
        except ENV_FAULTS as fault:
            raise self.failure(instance, fault) from fault

    async def close(self, env_id: str) -> None:
        """As :meth:`close_now`, also of an environment that another worker held; it stays closed."""
        if self.keeper is not None:
            self._require_said(env_id, await self.ensure([env_id]))
        instance = self.directory.get(env_id)
        self.close_now(env_id)
        if instance is not None:
            await self._kept(instance)

    def close_now(self, env_id: str) -> None:
        """Close an environment; closing twice is a success. A step under way comes to its end.

        Raises:
            EnvironmentNotFoundError: The id was never given, or so long ago that it is forgotten.
        """
        if not self.directory.was_closed(env_id):
            self._dismiss(self.directory.find(env_id), "closed")

    async def ensure(self, env_ids: Sequence[str]) -> Collection[str]:
        """Bring back those of these environments that another worker held before.

        Returns:
            Those of which certainly nothing is kept. Of all that are neither live now nor closed nor among these, nothing
            can be said: their slots went to other workers meanwhile.

        Raises:
            StoreUnavailableError: What is kept of them cannot be read.
        """
        if self.keeper is not None:
            find, is_closed = self.directory.get, self.directory.was_closed
            missing = [env_id for env_id in env_ids if find(env_id) is None and not is_closed(env_id)]
            if missing:
                return await self.keeper.recover(missing)
        return ()

    # --- as the keeper sees it ------------------------------------------------------------------------------

    def get(self, env_id: str) -> Instance | None:
        """The live environment of this id, if there is one."""
        return self.directory.get(env_id)

    def take_in(self, instance: Instance) -> None:
        """Make a recovered environment live; limits on how many there may be held when it was made."""
        self.directory.add(instance, is_new=False)

    def note_closed(self, env_id: str, reason: str) -> None:
        """Remember that an environment was closed, on whatever worker."""
        self.directory.bury(env_id, reason)

    def let_go(self, env_id: str) -> None:
        """Forget an environment that another worker owns."""
        instance = self.directory.get(env_id)
        if instance is not None:
            self._dismiss(instance, MOVED)

    # --- the host's own care --------------------------------------------------------------------------------

    async def reap(self) -> int:
        """Close environments that nobody has used for their whole ttl.

        Returns:
            How many there were.
        """
        reaped = 0
        slice_end = time.perf_counter() + self.limits.yield_after_s
        for env_id in self.directory.ids():
            instance = self.directory.get(env_id)
            if instance is not None and self._is_idle(instance):
                self._dismiss(instance, "idle")
                reaped += 1
            if time.perf_counter() > slice_end:
                await asyncio.sleep(0)
                slice_end = time.perf_counter() + self.limits.yield_after_s
        return reaped

    def abandon(self, slots: Collection[int], *, but_bound: bool = False) -> int:
        """Let go of environments in slots that are, or were meanwhile, another worker's.

        Args:
            slots: The slots.
            but_bound: Whether to keep those that are nowhere else.

        Returns:
            How many there were.
        """
        gone = 0
        for env_id in self.directory.ids():
            instance = self.directory.get(env_id)
            if instance is not None and slot_of(env_id) in slots and not (but_bound and instance.is_bound):
                self._dismiss(instance, MOVED)
                gone += 1
        return gone

    @property
    def stuck_threads(self) -> int:
        """Threads whose environment never returned."""
        return self._threads.stuck

    async def stop(self, grace_s: float = 10.0) -> None:
        """End all environments and the threads; what is not done after ``grace_s`` is left undone.

        Environments that are kept live on elsewhere.
        """
        self._stopping = True
        for env_id in self.directory.ids():
            instance = self.directory.get(env_id)
            if instance is not None:
                self._dismiss(instance, "closed" if self.keeper is None else MOVED)
        end = time.monotonic() + grace_s
        while (running := self._calls | self.executor.closing) and (left := end - time.monotonic()) > 0:
            await asyncio.wait(running, timeout=left)
        for task in running:
            task.cancel()
        self._threads.stop()

    def failure(self, instance: Instance, fault: BaseException) -> VerlAgentEnvError:
        """The error to answer with when an environment's own code failed, counted and logged."""
        timed_out = isinstance(fault, CallTimeoutError)
        kind_of_fault = "timeout" if timed_out else "exception"
        self.faults[instance.kind.name, kind_of_fault] += 1
        logger.warning(
            "environment call failed: %s",
            kind_of_fault,
            exc_info=None if timed_out else fault,
            extra={"env_id": instance.env_id, "env_name": instance.kind.name},
        )
        if timed_out:
            return EnvironmentTimeoutError(instance.env_id, self.limits.max_step_s)
        name = fault.name if isinstance(fault, ForeignExitError) else type(fault).__name__
        return EnvironmentFailedError(instance.env_id, name)

    # --- inner workings: inline environments ----------------------------------------------------------------

    def _prepare(self, request: CreateRequest) -> Instance:
        if self._stopping:
            raise ShuttingDownError
        try:
            kind = self.registry.kind(request.env_name)
            arguments = kind.validate(request.env_kwargs)
        except VerlAgentEnvError:
            raise
        except ENV_FAULTS as fault:
            # A module that cannot be imported, a validator that raises what it should not.
            logger.warning("kind unusable", exc_info=True, extra={"env_name": request.env_name})
            raise EnvironmentFailedError("", type(fault).__name__) from fault
        ttl_s = request.ttl_s if request.ttl_s is not None else self.limits.default_ttl_s
        env_id = request.env_id or new_env_id(self._pick_slot())
        instance = Instance(env_id, kind, arguments, request.run_id, ttl_s)
        if self.keeper is not None:
            instance.durability, instance.env_kwargs = self.keeper.durability_of(kind), request.env_kwargs
        return instance

    def _create_inline(self, instance: Instance, request: CreateRequest) -> tuple[str, ResetAnswer]:
        with self.directory.reserved(instance):
            answer = self._begin_inline(instance, _first_seed(request), None)
        self._add(instance)
        return instance.env_id, answer

    def _reset_inline(
        self, instance: Instance, seed: int | None, options: dict[str, Any] | None
    ) -> ResetAnswer:
        instance.require_alive()
        return self._begin_inline(instance, _next_seed(instance, seed), options)

    def _step_inline(self, instance: Instance, action: Any, seq: int | None, operation: bytes) -> StepAnswer:
        instance.last_used = self.clock()
        encoded = _encode(action, "action")
        stored = instance.admit(encoded, seq, operation)
        if stored is not None:
            return stored
        env = instance.env if instance.env is not None else self._rebuilt_inline(instance)
        try:
            answer = StepAnswer.of(env.step(action))
        except ENV_FAULTS as fault:
            self._fail(instance, fault)
        instance.commit(encoded, answer, self.limits.max_journal_bytes, operation)
        if self.keeper is not None:
            self.keeper.stepped(instance, encoded, answer)
        return answer

    def _begin_inline(self, instance: Instance, seed: int, options: dict[str, Any] | None) -> ResetAnswer:
        encoded = None if options is None else _encode(options, "options")
        try:
            instance.env, answer = reset_inline(
                instance.kind, instance.arguments, instance.env, seed, encoded
            )
        except InvalidEnvArgumentsError:
            raise
        except ENV_FAULTS as fault:
            self._fail(instance, fault)
        self._begun(instance, seed, encoded, answer)
        return answer

    def _rebuilt_inline(self, instance: Instance) -> Env:
        try:
            env = replay_inline(
                instance.kind, instance.arguments, instance.seed, instance.options, instance.actions or ()
            )
        except ENV_FAULTS as fault:
            self._fail(instance, fault, rebuilding=True)
        instance.env = env
        return env

    # --- inner workings: environments in threads, and awaited ones ------------------------------------------

    async def _create_apart(self, instance: Instance, request: CreateRequest) -> tuple[str, ResetAnswer]:
        with self.directory.reserved(instance):
            answer = await self._begin_apart(instance, _first_seed(request), None)
        if instance.closed_as is not None:
            self._release(instance)
            raise EnvironmentClosedError(instance.env_id, instance.closed_as)
        self._add(instance)
        await self._kept(instance)
        return instance.env_id, answer

    async def _reset_apart(
        self, instance: Instance, seed: int | None, options: dict[str, Any] | None
    ) -> ResetAnswer:
        async with self._turn(instance):
            instance.require_alive()
            answer = await self._begin_apart(instance, _next_seed(instance, seed), options)
        await self._kept(instance)
        return answer

    async def _begin_apart(
        self, instance: Instance, seed: int, options: dict[str, Any] | None
    ) -> ResetAnswer:
        encoded = None if options is None else _encode(options, "options")
        try:
            instance.env, answer = await self.executor.reset(
                instance.kind, instance.arguments, instance.env, seed, encoded
            )
        except (AtCapacityError, InvalidEnvArgumentsError):
            raise
        except ENV_FAULTS as fault:
            self._fail(instance, fault)
        self._begun(instance, seed, encoded, answer)
        return answer

    async def _step_apart(
        self, instance: Instance, action: Any, seq: int | None, operation: bytes
    ) -> StepAnswer:
        encoded = _encode(action, "action")
        async with self._turn(instance):
            answer = instance.admit(encoded, seq, operation)
            if answer is None:
                env = await self._standing(instance)
                try:
                    answer = await self.executor.step(instance.kind, env, action)
                except AtCapacityError:
                    raise
                except ENV_FAULTS as fault:
                    self._fail(instance, fault)
                instance.commit(encoded, answer, self.limits.max_journal_bytes, operation)
                if self.keeper is not None:
                    self.keeper.stepped(instance, encoded, answer)
        await self._kept(instance)
        return answer

    async def _read_apart(self, instance: Instance, read: Callable[[Any], T]) -> T:
        async with self._turn(instance):
            instance.require_alive()
            env = await self._standing(instance)
            try:
                return await self.executor.call(instance.kind, env, lambda: read(env))
            except CallTimeoutError as stuck:
                # Somebody may be at it still: it cannot be used any more.
                self._fail(instance, stuck)
            except VerlAgentEnvError:
                raise
            except ENV_FAULTS as fault:
                raise self.failure(instance, fault) from fault

    async def _standing(self, instance: Instance) -> Env:
        """The instance's environment, built anew after a call that failed."""
        if instance.env is None:
            try:
                instance.env, _ = await self.executor.replay(
                    instance.kind,
                    instance.arguments,
                    instance.seed,
                    instance.options,
                    instance.actions or (),
                )
            except AtCapacityError:
                raise
            except ENV_FAULTS as fault:
                self._fail(instance, fault, rebuilding=True)
        return instance.env

    async def _to_the_end(self, call: Coroutine[Any, Any, T]) -> T:
        """Carry out ``call`` even if the caller is cancelled: half a call leaves an environment that nobody knows."""
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return await asyncio.shield(task)

    @asynccontextmanager
    async def _turn(self, instance: Instance) -> AsyncIterator[None]:
        """First come, first served: calls on one environment that do not run inline wait for each other."""
        if instance.lock is None:
            instance.lock = asyncio.Lock()
        self.directory.touch(instance)
        async with instance.lock:
            try:
                yield
            except asyncio.CancelledError:
                # The host stops. A thread that is at it still closes it when it comes back.
                if instance.kind.execution == "thread":
                    instance.env = None
                raise
            finally:
                self.directory.touch(instance)
                if instance.closed_as is not None:
                    self._release(instance)

    # --- inner workings: beginnings and ends ----------------------------------------------------------------

    def _is_known(self, env_id: str) -> bool:
        return self.directory.get(env_id) is not None or self.directory.was_closed(env_id)

    async def _beginning(self, instance: Instance, request: CreateRequest) -> ResetAnswer:
        """The beginning of the present episode once more, if it is what ``request`` asks for.

        Raises:
            IdempotencyKeyReusedError: It is something else.
        """
        kwargs = instance.env_kwargs
        if instance.kind.name != self.registry.kind(request.env_name).name or (
            kwargs is not None and kwargs != request.env_kwargs
        ):
            raise IdempotencyKeyReusedError
        answer = instance.beginning
        if answer is None:
            env, answer = await self.executor.replay(
                instance.kind, instance.arguments, instance.seed, instance.options, ()
            )
            self.executor.dispose(instance.kind, env)
        await self._kept(instance)
        return answer

    async def _found(self, env_id: str) -> Instance:
        """The live environment, brought back if another worker held it before.

        Raises:
            EnvironmentStateError: There is none.
            MovedError: Its slot went to another worker.
            StoreUnavailableError: What is kept of it cannot be read.
        """
        if self.keeper is not None and self.directory.get(env_id) is None:
            unknown = await self.ensure([env_id])
            self._require_said(env_id, unknown)
        return self.directory.find(env_id)

    def _require_said(self, env_id: str, unknown: Collection[str]) -> None:
        """Raise when nothing can be said of the environment here.

        Raises:
            MovedError: Its slot went to another worker.
        """
        directory = self.directory
        if directory.get(env_id) is None and not directory.was_closed(env_id) and env_id not in unknown:
            raise MovedError(slot_of(env_id))

    async def _kept(self, instance: Instance) -> None:
        """Return when all that happened to the environment is written down.

        Raises:
            MovedError: Another worker owns the environment: nothing happened to it, whoever asks again meets the owner.
            StoreUnavailableError: It cannot be written; whether it will is unknown.
        """
        group = None if self.keeper is None else self.keeper.group_of(instance)
        if group is not None:
            await group.wait()
            error = group.errors.get(instance.env_id)
            if error is not None:
                raise error

    def _add(self, instance: Instance) -> None:
        """Make a new environment live; one that came back meanwhile, and is the same, stays."""
        if self.directory.get(instance.env_id) is not None:
            self._release(instance)
            return
        self.directory.add(instance)
        if self.keeper is not None:
            self.keeper.created(instance)

    def _begun(self, instance: Instance, seed: int, options: bytes | None, answer: ResetAnswer) -> None:
        instance.begin(seed, options, answer, self.limits.max_journal_bytes)
        self.directory.touch(instance)
        if self.keeper is not None and instance.episode:
            self.keeper.begun(instance)

    def _fail(self, instance: Instance, fault: BaseException, *, rebuilding: bool = False) -> NoReturn:
        """Drop the environment of a failed call, and say whether it comes back."""
        error = self.failure(instance, fault)
        self._release(instance, fault)
        self.directory.touch(instance)
        if instance.episode >= 0 and (rebuilding or not instance.replayable):
            instance.lost = (
                f"it took longer than {error.max_step_s:g} s"
                if isinstance(error, EnvironmentTimeoutError)
                else f"its code raised {error.fields().get('error')}"
            )
            raise EnvironmentLostError(instance.env_id, instance.lost) from fault
        raise error from fault

    def _is_idle(self, instance: Instance) -> bool:
        return not _is_busy(instance) and self.clock() - instance.last_used > instance.ttl_s

    def _dismiss(self, instance: Instance, reason: str) -> None:
        """Forget an environment and let it free what it holds, after the call that is at work on it."""
        instance.closed_as = reason
        self.directory.remove(instance, reason)
        if self.keeper is not None and reason != MOVED:
            self.keeper.closed(instance, reason)
        if not _is_busy(instance):
            self._release(instance)

    def _release(self, instance: Instance, fault: BaseException | None = None) -> None:
        """Part the instance from its environment, which frees what it holds."""
        env, instance.env = instance.env, None
        if env is not None:
            self.executor.dispose(instance.kind, env, fault)


def _is_busy(instance: Instance) -> bool:
    return instance.lock is not None and instance.lock.locked()


def _encode(value: Any, name: str) -> bytes:
    try:
        # Copied for the reason that ``encode_kept`` names; what came as JSON needs none of its options.
        return b"%b" % orjson.dumps(value)
    except TypeError:
        # JSON that can be read but not written: nested more than 250 levels deep.
        raise InvalidRequestError(
            [{"loc": [name], "msg": "cannot be kept as JSON; nest it less deeply"}]
        ) from None


def _first_seed(request: CreateRequest) -> int:
    return request.seed if request.seed is not None else secrets.randbits(53)


def _next_seed(instance: Instance, seed: int | None) -> int:
    if seed is not None:
        return seed
    return instance.seed if instance.seq == 0 else following_seed(instance.seed)
