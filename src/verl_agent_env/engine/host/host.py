"""The host: owns the live environments of one worker and carries out what is asked of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from verl_agent_env.config import HostLimits
from verl_agent_env.engine.calls.calls import Calls
from verl_agent_env.engine.calls.lifecycle import CreateRequest, Lifecycle
from verl_agent_env.engine.environments.env_table import EnvTable
from verl_agent_env.engine.environments.live_env import MOVED, LiveEnv
from verl_agent_env.engine.episodes.collector import EpisodeCollector, EpisodeOptions
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Executor
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.engine.execution.slices import Slices
from verl_agent_env.engine.execution.threads import Threads
from verl_agent_env.engine.execution.under_way import CallRecord
from verl_agent_env.engine.group_commit.pending import AwaitableOrValue, await_maybe
from verl_agent_env.engine.host.recoveries import Recoveries
from verl_agent_env.engine.persistence import Persistence, PersistenceOptions
from verl_agent_env.engine.persistence.recorder import Recorder
from verl_agent_env.engine.persistence.recovery import Recovery
from verl_agent_env.engine.persistence.saving import StateSaver
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    EnvironmentStateError,
    MovedError,
    VerlAgentEnvError,
)
from verl_agent_env.spans import note_wait
from verl_agent_env.types import NUM_SLOTS, slot_of
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep, PlayedBeginning
from verl_agent_env.wire.suspicions import Suspicion, Suspicions
from verl_agent_env.wire.task_results import ResultPage

T = TypeVar("T")


class Host:
    """Live environments and the calls on them; steps of one environment never overlap.

    An environment that raises or hangs fails its own call only: one that can be replayed has afterwards the state that
    it had before, any other one is lost. A call that has begun is carried out to its end, also when its caller goes
    away: whoever asks again finds it done. All methods belong to one event loop.
    """

    def __init__(
        self,
        registry: Registry,
        limits: HostLimits,
        *,
        name: str = "local",
        clock: Callable[[], float] = time.monotonic,
        num_slots: int = NUM_SLOTS,
        unknown: Callable[[str], VerlAgentEnvError] = EnvironmentNotFoundError,
        kinds: KindLoader | None = None,
        record: CallRecord | None = None,
        suspicions: Suspicions | None = None,
        kept: PersistenceOptions | None = None,
        episodes: EpisodeOptions | None = None,
    ) -> None:
        """A host without environments.

        Args:
            registry: The kinds of environments.
            limits: How much there may be.
            name: Of the worker.
            clock: Seconds.
            num_slots: Number of slots.
            unknown: Makes the error of an id that nothing is known of.
            kinds: Loads kinds.
            record: Where it is written what is under way.
            suspicions: Which calls are known to have ended a worker, or may have.
            kept: Where and how environments are kept outside this process, if they are. Somebody has to run the journal of
                the recorder.
            episodes: Where and how episodes are kept that are over, if they are. Somebody has to run the store.
        """
        self.name = name
        self.registry = registry
        self.kinds = kinds or KindLoader(registry)
        self.limits = limits
        self.clock = clock
        self.slices = Slices()
        """Turns of whatever keeps the event loop for longer than a call."""
        self.suspicions = suspicions = suspicions or Suspicions()
        """Which calls are known to have ended a worker, or may have."""
        self._threads = Threads(limits)
        self.executor = Executor(
            self._threads,
            limits.max_step_s,
            record or CallRecord(),
            suspicions,
            partial(self.slices.pace, limits.yield_after_s),
        )
        self.collector = (
            None
            if episodes is None
            else EpisodeCollector(episodes, name, clock, self.executor, self.all_actions)
        )
        """Keeps episodes that are over, if they are kept."""
        self.env_table = EnvTable(
            limits,
            clock,
            self.executor.dispose,
            lambda env_id: suspicions.refusal(env_id) or unknown(env_id),
            self.collector,
        )
        self._num_slots = num_slots
        self._ownership = None if kept is None else kept.ownership
        self._log = None if kept is None else kept.log
        self.persistence = None if kept is None else self._persistence(kept)
        """Records the environments outside this process and brings them back, if they are kept there."""
        self.recorder: Recorder | None = None if self.persistence is None else self.persistence.recorder
        self.recovery: Recovery | None = None if self.persistence is None else self.persistence.recovery
        self.recoveries = Recoveries(self.recovery, self.env_table)
        """Bring back environments that another worker held."""
        self._owns: Callable[[int], bool] = (lambda _: True) if kept is None else kept.ownership.owns
        self._lifecycle = Lifecycle(
            registry,
            limits,
            self.env_table,
            self.executor,
            clock,
            num_slots,
            suspicions,
            self.recorder,
            self._owns,
            self.collector,
        )
        self.calls = Calls(self._lifecycle)
        """Calls on environments that are live here; nothing is looked for elsewhere."""
        self.faults = self._lifecycle.faults
        self.failure = self._lifecycle.failure

    async def task_results(self, run: str, cursor: str) -> ResultPage:
        """Return statistics of tasks of a run, of all workers that keep their environments together.

        Args:
            run: Key of the run.
            cursor: That of the page before; ``0`` for the first.

        Raises:
            StoreUnavailableError: They are kept in a store that does not answer.
        """
        if self._log is None:
            return self._lifecycle.results.page(run, cursor)
        return await self._log.results(run, cursor)

    def _persistence(self, kept: PersistenceOptions) -> Persistence:
        recorder = Recorder(
            kept.shards,
            self.env_table,
            kept.durabilities,
            self.limits.max_journal_bytes,
            kept.patience_s,
        )
        recovery = Recovery(
            kept.log,
            kept.ownership,
            self.env_table,
            recorder.journal,
            self.registry,
            self.executor,
            self.limits,
            self.suspicions,
            len(kept.shards),
        )
        return Persistence(recorder, recovery)

    # --- calls on one environment ---------------------------------------------------------------------------
    #
    # Each gives its result at once where there is nothing to wait for. What has to be written before it is answered has
    # been carried out all the same; a coroutine has not begun.

    def create(self, request: CreateRequest) -> AwaitableOrValue[Created]:
        """Make an environment and begin its first episode.

        Returns:
            Its id, and the beginning of the episode.

        Raises:
            UnknownEnvNameError, InvalidEnvArgumentsError: Nothing was built.
            IdempotencyKeyReusedError, EnvironmentClosedError: Under this id there is another one, or was one.
            AtCapacityError, RunQuotaExceededError, ShuttingDownError: No room.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
        """
        if not self.registry.is_loaded(request.env_name):
            return self._load_and_create(request)
        return self._create(request)

    async def _load_and_create(self, request: CreateRequest) -> Created:
        await self.kinds.load((request.env_name,))
        return await await_maybe(self._create(request))

    def _create(self, request: CreateRequest) -> AwaitableOrValue[Created]:
        if request.env_id is not None and self.recovery is not None:
            if not self.env_table.is_known(request.env_id):
                return self._recover_and(request.env_id, self.calls.create, request)
            self._require_owned(request.env_id)
        return self.calls.create(request)

    def runs_inline(self, env_name: str) -> bool:
        """Tell whether environments of this name run in the event loop; false if there is no such kind, or it is not loaded."""
        try:
            return self.registry.is_loaded(env_name) and self.registry.kind(env_name).execution == "inline"
        except ENV_FAULTS:
            return False

    def reset(
        self,
        env_id: str,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        operation: bytes = b"",
    ) -> AwaitableOrValue[EncodedReset]:
        """Begin an episode; one that the same ``operation`` began goes on, and is answered as it began.

        Without a seed, the episode that follows begins; right after creation, the first one, which creation has shown.

        Args:
            env_id: The environment.
            seed: Of the episode.
            options: Of the environment.
            operation: Id of the request, the same when it is sent again; empty if it has none.

        Raises:
            EnvironmentStateError: The environment is unknown, closed or lost.
            SequenceStaleError: The same ``operation`` began an episode that is over.
            InvalidEnvArgumentsError: The environment does not take the options; the episode goes on unchanged.
            InvalidRequestError: The options cannot be kept as JSON.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
        """
        return self.call(self.calls.reset, env_id, seed, options, operation)

    def begin_and_play(
        self,
        env_id: str,
        seed: int,
        options: dict[str, Any] | None,
        actions: Sequence[Any],
        operation: bytes = b"",
    ) -> AwaitableOrValue[PlayedBeginning]:
        """Begin an episode and carry out actions in it, all of them or none: if one cannot be, the environment stays as it was.

        What the same ``operation`` began goes on, and is answered as it was then.

        Args:
            env_id: The environment.
            seed: Of the episode.
            options: Of the environment.
            actions: JSON each, in their order.
            operation: Id of the request, the same when it is sent again; empty if it has none.

        Raises:
            EnvironmentStateError: The environment is unknown, closed or lost.
            SequenceStaleError: The same ``operation`` began an episode that is over.
            InvalidRequestError: The environment does not repeat its episodes, or ends before the last action.
            InvalidEnvArgumentsError: The environment does not take the options.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
        """
        return self.call(self.calls.begin_and_play, env_id, seed, options, actions, operation)

    def step(
        self, env_id: str, action: Any, seq: int | None = None, operation: bytes = b""
    ) -> AwaitableOrValue[EncodedStep]:
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
        if self.recovery is not None and self.env_table.get(env_id) is None:
            return self._recover_and(env_id, self.calls.step, env_id, action, seq, operation)
        return self.calls.step(env_id, action, seq, operation)

    def read(self, env_id: str, read: Callable[[Any], T]) -> AwaitableOrValue[T]:
        """Call ``read`` with the environment, on which no other call runs meanwhile, and give its result; it changes nothing.

        Raises:
            EnvironmentStateError: The environment is unknown, closed or lost.
            EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
            VerlAgentEnvError: As ``read`` raises it.
        """
        return self.call(self.calls.read, env_id, read)

    def close(self, env_id: str) -> AwaitableOrValue[None]:
        """Close an environment, also one that another worker held; the answer comes when that is written.

        Closing twice is a success. A step under way comes to its end.

        Raises:
            EnvironmentNotFoundError: The id was never given, or so long ago that it is forgotten.
            MovedError: Its slot went to another worker, which goes on with it.
            StoreUnavailableError: The end cannot be written; whether it will be is unknown.
        """
        if self.recovery is not None:
            if not self.env_table.is_known(env_id):
                return self._recover_and(env_id, self.calls.close, env_id)
            self._require_owned(env_id)
        return self.calls.close(env_id)

    def find(self, env_id: str) -> AwaitableOrValue[LiveEnv]:
        """The live environment, brought back if another worker held it before.

        Raises:
            EnvironmentStateError: There is none.
            MovedError: Its slot went to another worker.
            StoreUnavailableError: What is kept of it cannot be read.
        """
        return self.call(self.env_table.find, env_id)

    def call(
        self, call: Callable[..., AwaitableOrValue[T]], env_id: str, *arguments: Any
    ) -> AwaitableOrValue[T]:
        """Make a call on an environment, which is brought back before if another worker held it.

        Raises:
            MovedError: Its slot went to another worker.
            StoreUnavailableError: What is kept of it cannot be read.
        """
        if self.recovery is not None and self.env_table.get(env_id) is None:
            return self._recover_and(env_id, call, env_id, *arguments)
        return call(env_id, *arguments)

    async def _recover_and(self, env_id: str, call: Callable[..., AwaitableOrValue[T]], *arguments: Any) -> T:
        """Call a function, once an environment that another worker may have held before was brought back.

        Raises:
            MovedError: Its slot went to another worker, or may have: nothing can be said of the environment here.
            StoreUnavailableError: What is kept of it cannot be read.
        """
        began = time.perf_counter()
        unknown = await self.recoveries.ensure([env_id])
        note_wait("recovered", began, "environment")
        self._require_owned(env_id)
        if not (self.env_table.is_known(env_id) or env_id in unknown):
            raise MovedError(slot_of(env_id))
        return await await_maybe(call(*arguments))

    def _require_owned(self, env_id: str) -> None:
        slot = slot_of(env_id)
        if not self._owns(slot):
            raise MovedError(slot)

    def owned_slots(self) -> dict[int, str]:
        """Slots that this worker may act for now, with what proves it; empty where that is not shared with others."""
        if self._ownership is None:
            return dict.fromkeys(range(self._num_slots), "")
        owns, token_of = self._ownership.owns, self._ownership.token_of
        return {slot: token_of(slot) or "" for slot in self._ownership.tokens if owns(slot)}

    def as_owner(self, error: VerlAgentEnvError) -> VerlAgentEnvError:
        """The error; or that the environment is another worker's, where this one may not speak for it any more."""
        if isinstance(error, EnvironmentStateError):
            slot = slot_of(error.env_id)
            return error if self._owns(slot) else MovedError(slot)
        return error

    async def require_alive(self, instance: LiveEnv) -> None:
        """Raise as :meth:`LiveEnv.require_alive` does, but not before what the error tells of is written."""
        await self._lifecycle.require_alive(instance)

    async def all_actions(self, instance: LiveEnv) -> list[bytes] | None:
        """Find the actions of an episode as they are recorded, also those that only the log has; None if some are gone.

        Raises:
            StoreUnavailableError: A part of them is in the log, which does not answer.
        """
        if instance.first_seq and self.recovery is not None:
            return await self.recovery.all_actions(instance)
        return list(instance.actions or ()) if instance.history_complete else None

    def update_suspicions(self, told: Mapping[str, Suspicion]) -> None:
        """Take in which calls are suspected; none of the code of an environment that is refused is run any more."""
        self.suspicions.replace(told)
        for suspicion in told.values():
            instance, refusal = self.env_table.get(suspicion.env_id), self.suspicions.refusal(
                suspicion.env_id
            )
            if refusal is not None and instance is not None and instance.lost is None:
                instance.lose(refusal)

    # --- the host's own care --------------------------------------------------------------------------------

    async def reap(self) -> int:
        """Close environments that nobody has used for their whole ttl.

        Time in which this worker may not act for an environment, or cannot write what happens to it, does not count: nobody
        could use it here.

        Returns:
            How many there were; where environments are kept, they are closed as soon as that is written.
        """
        reaped = 0
        slice_end = time.perf_counter() + self.limits.yield_after_s
        for env_id in self.env_table.ids():
            instance = self.env_table.get(env_id)
            if instance is not None and not self._is_usable(instance):
                self.env_table.touch(instance)
            elif instance is not None and self._lifecycle.is_idle(instance):
                self._lifecycle.end(instance, "idle")
                reaped += 1
            if time.perf_counter() > slice_end:
                await asyncio.sleep(0)
                slice_end = time.perf_counter() + self.limits.yield_after_s
        return reaped

    def _is_usable(self, instance: LiveEnv) -> bool:
        """Tell whether calls on an environment could be answered here."""
        if not self._owns(instance.slot):
            return False
        return self.recorder is None or not self.recorder.journal.of(instance.slot).is_away

    def evict(self, slots: Collection[int], *, keep_not_durable: bool = False) -> int:
        """Forget all that is known of slots that are, or were meanwhile, another worker's.

        Their environments, and which of them were closed. What was still to be written of them is never written: it was meant
        for another token.

        Args:
            slots: The slots.
            keep_not_durable: Whether to keep those that are nowhere else.

        Returns:
            How many environments there were.
        """
        gone = 0
        self.env_table.forget_closed(slots)
        for env_id in self.env_table.ids():
            instance = self.env_table.get(env_id)
            if (
                instance is not None
                and slot_of(env_id) in slots
                and not (keep_not_durable and instance.is_not_durable)
            ):
                self.env_table.evict(instance, MOVED)
                gone += 1
        return gone

    async def save_states(self, slots: Collection[int], timeout_s: float) -> None:
        """Record the states of environments whose slots are about to move, as far as they can be had in time.

        The next owner begins with them: it plays nothing again, and so it does not matter how it would.
        """
        if self.recorder is not None:
            saving = StateSaver(self.recorder, self.executor, self.limits.yield_after_s)
            await saving.save(self.env_table.in_slots(slots), timeout_s)

    @property
    def stuck_threads(self) -> int:
        """Threads whose environment never returned."""
        return self._threads.stuck

    async def stop(self, grace_s: float = 10.0) -> None:
        """End all environments and the threads; what is not done after ``grace_s`` is left undone.

        Environments that are kept live on elsewhere.
        """
        self._lifecycle.is_stopping = True
        for env_id in self.env_table.ids():
            instance = self.env_table.get(env_id)
            if instance is not None:
                self.env_table.evict(instance, "closed" if self.recorder is None else MOVED)
        end = time.monotonic() + grace_s
        while (running := self.calls.under_way | self.executor.closing | self.recoveries.under_way) and (
            left := end - time.monotonic()
        ) > 0:
            await asyncio.wait(running, timeout=left)
        if self.collector is not None:
            await self.collector.stop()
        for task in running:
            task.cancel()
        self._threads.stop()
