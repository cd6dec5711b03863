"""Records what happens to live environments in the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import orjson

from verl_agent_env import __version__, waits
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.environments.marks import NO_MARK, Mark
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Env
from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.group_commit.pending import PendingAnswer
from verl_agent_env.engine.persistence.journal import Journal
from verl_agent_env.engine.persistence.sharded_journal import ShardedJournal
from verl_agent_env.engine.persistence.slot_ownership import SlotOwnership
from verl_agent_env.envs.base import ChatEnv, Durability
from verl_agent_env.envs.fingerprint import fingerprint_of
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.errors import ArgumentsTooLargeError, EnvironmentStateError, InvalidEnvArgumentsError
from verl_agent_env.wire.codec import encode
from verl_agent_env.wire.event_log import EventLog
from verl_agent_env.wire.records import (
    AppliedStep,
    Entry,
    Header,
    RefusalReason,
    Snapshot,
    Write,
    digest_of,
)
from verl_agent_env.wire.results import EncodedStep
from verl_agent_env.wire.task_results import TaskResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

# So many steps are played again at most, however long the episode is.
_STEPS_BETWEEN_SNAPSHOTS = 16


class LogShard(NamedTuple):
    """A log, and those of this worker's slots that are written to it."""

    log: EventLog
    ownership: SlotOwnership


class LiveEnvironments(Protocol):
    """The environments that are recorded."""

    def get(self, env_id: str) -> LiveEnv | None:
        """The live environment of this id, if there is one."""

    def evict_moved(self, env_id: str) -> None:
        """Forget an environment that another worker owns."""

    def note_closed(self, env_id: str, reason: str) -> None:
        """Note that an environment was closed, on whatever worker."""


class Recorder:
    """Records one host's environments.

    The durability of a kind (:class:`~verl_agent_env.envs.kind.EnvKind`) decides what is recorded: each step (``journal``),
    the state after each step (``snapshot``), each step without waiting for the write (``relaxed``), or the existence of the
    environment only (``none``).
    """

    def __init__(
        self,
        shards: Sequence[LogShard],
        environments: LiveEnvironments,
        durabilities: Mapping[str, Durability],
        max_history_bytes: int,
        patience_s: float = waits.STORE_S,
    ) -> None:
        """Make a recorder that has recorded nothing yet.

        Args:
            shards: Where to write.
            environments: What is recorded.
            durabilities: How to keep environments of these names, where it is not as their kinds have it.
            max_history_bytes: Actions kept of an episode, until its history begins anew with its state.
            patience_s: How long an answer waits until what it tells of is written.
        """
        # Read now: what replaces the files while this process runs is not what it runs.
        fingerprint_of(ChatEnv)
        self._max_history_bytes = max_history_bytes
        self._environments = environments
        self._durabilities = dict(durabilities)
        journals = [Journal(shard.log, shard.ownership, self, patience_s=patience_s) for shard in shards]
        self.journal = journals[0] if len(journals) == 1 else ShardedJournal(journals)
        """Writes."""
        self.failed_snapshots: Counter[str] = Counter()
        """Snapshots that failed and were done without, by env name."""

    def durability_of(self, kind: EnvKind) -> Durability:
        """Return the durability of environments of this kind."""
        return self._durabilities.get(kind.name, kind.durability)

    def prepare(self, instance: LiveEnv, env_kwargs: Mapping[str, Any], max_bytes: int) -> None:
        """Make sure that an environment can be kept, before it is built.

        Raises:
            InvalidEnvArgumentsError: The kind or the keyword arguments cannot be kept.
            ArgumentsTooLargeError: The keyword arguments take more than ``max_bytes`` of JSON.
        """
        kind = instance.kind
        durability = self.durability_of(kind)
        if durability == "snapshot" and not kind.has_state:
            raise InvalidEnvArgumentsError(
                kind.name,
                [{"loc": [], "msg": "is kept by its state (durability 'snapshot'), but has no snapshot"}],
            )
        try:
            size = len(encode(env_kwargs))
        except TypeError:
            # JSON that can be read but not written: nested more than 250 levels deep.
            raise InvalidEnvArgumentsError(
                kind.name, [{"loc": [], "msg": "cannot be kept as JSON; nest them less deeply"}]
            ) from None
        if size > max_bytes:
            raise ArgumentsTooLargeError(size, max_bytes)
        instance.keep(durability, env_kwargs)

    def mark_beginning(self, instance: LiveEnv, env: Env) -> Mark:
        """Read of an episode that has just begun what is recorded of it.

        Raises:
            Exception: Its state is what it is kept by, and cannot be had.
        """
        if instance.durability == "none" or not instance.kind.has_state:
            return NO_MARK
        try:
            return Mark(state=state_of(env))
        except ENV_FAULTS as fault:
            if instance.durability == "snapshot":
                raise
            return Mark(fault=fault)

    def mark(self, instance: LiveEnv, env: Any, answer: EncodedStep, seq: int) -> Mark:
        """Read of an environment that has just taken a step, number ``seq``, what is recorded of it.

        Raises:
            Exception: Its state is what it is kept by, and cannot be had.
        """
        if not instance.is_journalled:
            return Mark(state=state_of(env)) if instance.durability == "snapshot" else NO_MARK
        kind = instance.kind
        digest = state = fault = None
        try:
            if kind.digests_state:
                digest = env.state_digest()
            if (seq + 1) % _STEPS_BETWEEN_SNAPSHOTS == 0 and kind.has_state:
                state = state_of(env)
        except ENV_FAULTS as raised:
            fault = raised
        return Mark(digest_of(answer, seq, digest, kind.code), state, fault)

    def note_fault(self, instance: LiveEnv, fault: BaseException) -> None:
        """Count and log that a state could not be had."""
        name = instance.kind.name
        self.failed_snapshots[name] += 1
        # Once for each kind: a snapshot that fails does so for all of them, and every few steps.
        level = logging.WARNING if self.failed_snapshots[name] == 1 else logging.DEBUG
        logger.log(
            level,
            "snapshots of this kind fail; its environments are kept by their actions alone",
            exc_info=fault,
            extra={"env_id": instance.env_id, "env_name": name},
        )

    def created(self, instance: LiveEnv) -> None:
        """An environment has begun its first episode."""
        self._write(instance, "create", _header(instance))

    def begun(self, instance: LiveEnv) -> None:
        """Another episode has begun."""
        self._write(instance, "begin", _header(instance))

    def begun_and_played(self, instance: LiveEnv) -> None:
        """Record an episode that has begun with steps, as a whole: all of it is kept, or nothing."""
        for write in self.repersist(instance.env_id) or ():
            group = self.journal.write(write)
            if instance.is_awaited:
                instance.group = group

    def stepped(self, instance: LiveEnv, recorded: bytes, mark: Mark) -> None:
        """Record a step that was applied and noted, with what was read of the environment after it.

        Nothing here raises: what can was done before the step was noted.
        """
        if mark.digest is not None:
            # As Entry(…).to_bytes() and self._write(…), in half the time.
            entry = b"\n".join((instance.last_operation, mark.digest, recorded))
            group = self.journal.write(
                Write("append", instance.env_id, instance.slot, instance.episode, instance.seq - 1, entry)
            )
            if instance.is_awaited:
                instance.group = group
        if mark.state is not None:
            self._write(instance, "save", _snapshot(instance), instance.seq)
            if instance.history_bytes > self._max_history_bytes and instance.is_journalled:
                # Of a long history the state takes the place, here and in the log.
                instance.forget_before_state()
                self.journal.write(_whole(instance))
        if mark.fault is not None:
            self.note_fault(instance, mark.fault)

    def finished(self, instance: LiveEnv, result: TaskResult) -> None:
        """Record the result of an episode, whose last step is recorded afterwards."""
        slot, episode = instance.slot, instance.episode
        self.journal.write(Write("result", instance.env_id, slot, episode, 0, result.to_bytes()))

    def save(self, instance: LiveEnv, state: bytes) -> None:
        """Record the present state of an environment that took its last step some time ago."""
        instance.note_state(state)
        self._write(instance, "save", _snapshot(instance), instance.seq)

    def closed(self, instance: LiveEnv, reason: str) -> Group:
        """Write the end of an environment, which stays in memory until that is written, but takes no call any more.

        Returns:
            What it is written with.
        """
        # What is asked for from now on is refused as soon as this is written, whoever waits for the writes of other calls.
        instance.ending, instance.group = reason, self._write(instance, "close", reason.encode())
        return instance.group

    def hold_back(self, instance: LiveEnv, answer: T) -> T | PendingAnswer[T]:
        """Hold back the answer of a call until all that happened to its environment is written, if that is not yet so."""
        group = instance.group
        if group is None or group.is_settled:
            return answer
        return PendingAnswer(self.journal.of(instance.slot), instance.env_id, group, answer)

    def hold_back_error(self, instance: LiveEnv, error: EnvironmentStateError) -> PendingAnswer[Any]:
        """Hold back a refusal, which tells of earlier calls; raise it if there is nothing to wait for."""
        group = instance.group
        if group is None or group.is_settled:
            raise error
        return PendingAnswer(self.journal.of(instance.slot), instance.env_id, group, None, error)

    def repersist(self, env_id: str) -> tuple[Write, ...] | None:
        """Writes that say all of a live environment; none if its history was not kept, None if it is not here."""
        instance = self._environments.get(env_id)
        if instance is None:
            return None
        if instance.lost is not None:
            return ()
        if instance.is_journalled and not (instance.replays_from_state or instance.history_complete):
            return ()
        whole = _whole(instance)
        if instance.seq and instance.state is not None and instance.state_seq == instance.seq:
            save = Write("save", env_id, whole.slot, instance.episode, instance.seq, _snapshot(instance))
            return whole, save
        return (whole,)

    def ended(self, env_id: str, reason: str) -> None:
        """Take in that the end of an environment is written: only now it is closed."""
        self._environments.note_closed(env_id, reason)

    def repersist_all(self, env_ids: Iterable[str]) -> None:
        """Re-persist these environments, in a store that was emptied."""
        self.journal.repersist(env_ids)

    def answers_early(self, env_id: str) -> bool:
        """Tell whether calls on the environment are answered before they are written; false for one that is not here."""
        instance = self._environments.get(env_id)
        return instance is not None and not instance.is_awaited

    def _write(self, instance: LiveEnv, kind: Any, data: bytes, seq: int = 0) -> Group:
        env_id = instance.env_id
        group = self.journal.write(Write(kind, env_id, instance.slot, instance.episode, seq, data))
        if instance.is_awaited:
            instance.group = group
        return group

    def refused(self, env_id: str, reason: RefusalReason) -> None:
        """Forget an environment that another worker owns, or that has ended: what this worker knows of it no longer counts.

        One that is answered early is forgotten only if it is another worker's: nobody relies on what is kept of it.
        """
        if reason == "gone" and self.answers_early(env_id):
            return
        logger.debug("environment evicted: its write was refused", extra={"env_id": env_id, "reason": reason})
        self._environments.evict_moved(env_id)


def _whole(instance: LiveEnv) -> Write:
    """Say all of an environment; where its first actions are gone, its journal begins with its state."""
    env_id, first = instance.env_id, _first_of_journal(instance)
    entries = _entries(instance, first)
    return Write(
        "put", env_id, instance.slot, instance.episode, first + len(entries), _header(instance), entries
    )


def _first_of_journal(instance: LiveEnv) -> int:
    """Number of the step with which the journal of an environment begins when all of it is said."""
    return instance.state_seq if instance.is_journalled and instance.first_seq else 0


def _header(instance: LiveEnv) -> bytes:
    kind, first = instance.kind, _first_of_journal(instance)
    return Header(
        env_name=kind.name,
        env_kwargs=instance.env_kwargs or {},
        run_id=instance.run_id,
        ttl_s=instance.ttl_s,
        durability=instance.durability,
        episode=instance.episode,
        seed=instance.seed,
        options=_fragment(instance.options),
        effects=_fragment(instance.effects),
        created_at=round(time.time(), 3),
        version=__version__,
        code=kind.code.decode(),
        state_format=kind.state_format,
        state=None if instance.state is None or instance.state_seq != first else instance.state.decode(),
        state_seq=first,
        reward_sum=instance.state_reward_sum if first else 0.0,
        resets=_as_text(instance.resets),
        earlier_resets=[
            (begun.operation.decode(), begun.seed, _fragment(begun.options))
            for begun in instance.earlier_resets
        ],
        past_operations=_as_text(instance.past_operations or ()),
    ).to_json()


def _snapshot(instance: LiveEnv) -> bytes:
    """Write the state that the instance holds, which is the one after its last step."""
    if instance.state is None or instance.last_answer is None or instance.last_action is None:
        raise ValueError("an environment that took no step has nothing to save")
    return Snapshot(
        instance.seq,
        instance.state,
        AppliedStep(instance.last_operation, instance.last_action, instance.last_answer),
        tuple(instance.earlier_steps or ()),
        tuple(instance.past_operations or ()),
        instance.state_reward_sum,
    ).to_json()


def _entries(instance: LiveEnv, first: int) -> tuple[bytes, ...]:
    """The journal from the step ``first`` on; of the steps' operations only those of the last call are known."""
    if not instance.is_journalled or first == instance.seq:
        return ()
    gone = first - instance.first_seq
    digests, actions = (instance.digests or ())[gone:], (instance.actions or ())[gone:]
    known = [*(step.operation for step in instance.earlier_steps or ()), instance.last_operation]
    operations = ([b""] * len(actions) + known)[-len(actions) :]
    return tuple(
        Entry(operation, digest, action).to_bytes()
        for operation, digest, action in zip(operations, digests, actions, strict=True)
    )


def _fragment(options: bytes | None) -> orjson.Fragment | None:
    return None if options is None else orjson.Fragment(options)


def _as_text(operations: Sequence[bytes]) -> list[str]:
    return [operation.decode() for operation in operations]


def state_of(env: Any) -> bytes:
    """Read the state of an environment, in a form that can be written.

    Raises:
        Exception: Whatever its code raises, or that what it gave is no text as bytes.
    """
    state = env.snapshot()
    if not isinstance(state, bytes):
        raise TypeError(f"snapshot() gave {type(state).__name__}, not bytes")
    state.decode()
    # Copied, as ``encode_kept`` does: environments write their states with orjson.
    return b"%b" % state
