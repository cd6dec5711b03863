"""Builds environments anew from what the log has of them, and makes sure that they are what they were."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from verl_agent_env.engine.environments.live_env import Beginning, LiveEnv
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Env, Executor
from verl_agent_env.engine.execution.under_way import calling
from verl_agent_env.envs.kind import EnvKind, unavailable_kind
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    AtCapacityError,
    InvalidEnvArgumentsError,
    ReplayDivergedError,
    VerlAgentEnvError,
)
from verl_agent_env.wire.actions import identity_in
from verl_agent_env.wire.codec import encode_kept
from verl_agent_env.wire.event_log import HistoryReader
from verl_agent_env.wire.records import (
    Entry,
    Header,
    Saved,
    Snapshot,
    agrees,
)
from verl_agent_env.wire.results import EncodedStep
from verl_agent_env.wire.suspicions import RECOVERY, CallId, Suspicions
from verl_agent_env.wire.task_results import arguments_digest

logger = logging.getLogger(__name__)


class _Start(NamedTuple):
    """A state to play on from."""

    seq: int
    """Steps that led to it."""
    state: bytes
    snapshot: Snapshot | None = None
    """Where it was saved together with the last answer."""


class Restorer:
    """Makes instances of what was saved."""

    def __init__(
        self,
        registry: Registry,
        executor: Executor,
        log: HistoryReader,
        default_ttl_s: float,
        suspicions: Suspicions,
    ) -> None:
        self._suspicions = suspicions
        self._registry = registry
        self._executor = executor
        self._log = log
        self._default_ttl_s = default_ttl_s

    def read(self, env_id: str, saved: Saved) -> LiveEnv:
        """Make an instance without an environment yet; one that this worker cannot read says so from now on."""
        try:
            header = Header.from_json(saved.header or b"")
        except ValueError:
            logger.exception(
                "header of an environment is not readable; another version may have written it",
                extra={"env_id": env_id},
            )
            instance = LiveEnv(env_id, unavailable_kind(""), None, None, self._default_ttl_s)
            instance.keep("journal", {})
            instance.note_unreadable("unknown")
            return instance
        kind, arguments, unreadable = self._kind_of(env_id, header)
        instance = LiveEnv(env_id, kind, arguments, header.run_id, header.ttl_s)
        _restore_header(instance, header)
        if unreadable is not None and header.durability != "none":
            instance.note_unreadable(unreadable)
        return instance

    async def restore(self, instance: LiveEnv, saved: Saved) -> None:
        """Build the environment of an instance as it stood; what cannot come back is lost, and says why.

        Raises:
            AtCapacityError: No thread is free for it; it can come back later.
            StoreUnavailableError: More of it has to be read, and cannot be.
        """
        refusal = self._suspicions.refusal(instance.env_id)
        if refusal is not None:
            instance.lose(refusal)
            return
        try:
            if instance.unreadable is not None:
                return
            with calling(CallId(instance.env_id, instance.episode, RECOVERY)):
                if instance.durability == "none":
                    instance.lost = "the worker that held it has ended, and its kind cannot be brought back"
                elif instance.durability == "snapshot":
                    await self._stand_at_state(instance, saved)
                else:
                    await self._play_on(instance, saved)
        except AtCapacityError:
            raise
        except ReplayDivergedError as diverged:
            logger.error(
                "replay diverged: a step gave another result than recorded; the environment is lost",
                extra={"env_id": instance.env_id, "seq": diverged.seq},
            )
            instance.lose(diverged)
        except ENV_FAULTS as fault:
            if isinstance(fault, VerlAgentEnvError) and fault.retryable:
                raise
            logger.warning(
                "recovery of an environment failed; the environment is lost",
                exc_info=True,
                extra={"env_id": instance.env_id},
            )
            instance.lost = f"it could not be brought back: {type(fault).__name__}"

    def _kind_of(self, env_id: str, header: Header) -> tuple[EnvKind, Any, str | None]:
        """The kind, the arguments, and what of them this worker does not have, if anything."""
        written_as = header.state_format or "none"
        try:
            kind = self._registry.kind(header.env_name)
        except ENV_FAULTS:
            logger.warning(
                "recovery refused: the environment kind is not installed on this worker",
                exc_info=True,
                extra={"env_name": header.env_name},
            )
            return unavailable_kind(header.env_name), None, written_as
        try:
            arguments = kind.validate(header.env_kwargs)
        except InvalidEnvArgumentsError as refused:
            logger.warning(
                "recovery refused: the environment kind here does not take the recorded arguments",
                extra={"env_id": env_id, "detail": refused.detail},
            )
            return kind, None, "with arguments that it refuses"
        # An older version of this server did not write the format.
        is_readable = header.state_format in (None, kind.state_format)
        return kind.fitting(arguments), arguments, None if is_readable else written_as

    # --- by its state ---------------------------------------------------------------------------------------

    async def _stand_at_state(self, instance: LiveEnv, saved: Saved) -> None:
        """Begin with the state of the last snapshot, or with the beginning of the episode."""
        if saved.snapshot is None:
            if instance.state is None:
                raise ValueError("no state was kept")
            instance.env = await self._restored(instance, instance.state)
            return
        snapshot = Snapshot.from_json(saved.snapshot)
        instance.env = await self._restored(instance, snapshot.state)
        instance.seq, instance.reward_sum = snapshot.seq, snapshot.reward_sum
        instance.note_state(snapshot.state)
        instance.first_seq = snapshot.seq
        _restore_steps(instance, snapshot)

    # --- by its steps ---------------------------------------------------------------------------------------

    async def _play_on(self, instance: LiveEnv, saved: Saved) -> None:
        """Play the journal on from the newest state that leads to where it stood; from the seed if none does."""
        start = _last_snapshot(saved)
        if start is not None and await self._has_played_on(instance, saved, start):
            return
        if saved.first:
            (saved,) = await self._log.load([instance.env_id], whole=True)
        if instance.state is not None and await self._has_played_on(
            instance, saved, _Start(instance.state_seq, instance.state)
        ):
            return
        entries = _entries(saved, 0)
        env, _ = await self._executor.begin_again(
            instance.kind, instance.arguments, instance.seed, instance.options, instance.effects
        )
        instance.state = None
        await self._replay(instance, env, entries, 0, None)

    async def _has_played_on(self, instance: LiveEnv, saved: Saved, start: _Start) -> bool:
        """Tell whether the journal continues from a state; a state of something else is of no use."""
        try:
            entries = _entries(saved, start.seq)
            env = await self._restored(instance, start.state)
            if await self._leads_there(instance, env, saved, start):
                await self._replay(instance, env, entries, start.seq, start.snapshot)
                instance.state, instance.state_seq = start.state, start.seq
                instance.state_reward_sum = _sum_before(instance, start.seq, start.snapshot)
                return True
            self._executor.dispose(instance.kind, env)
            logger.warning(
                "snapshot does not match the event log; replaying without it",
                extra={"env_id": instance.env_id},
            )
        except AtCapacityError:
            raise
        except ENV_FAULTS:
            logger.warning(
                "snapshot restore failed; replaying without it",
                exc_info=True,
                extra={"env_id": instance.env_id},
            )
        return False

    async def _leads_there(self, instance: LiveEnv, env: Env, saved: Saved, start: _Start) -> bool:
        """Tell whether an environment at a state is where the step before it had led."""
        place = start.seq - 1 - saved.first
        if start.snapshot is None or not saved.entries[place]:
            return True
        kind = instance.kind
        state = await self._executor.call(kind, env, lambda: _state_digest(kind, env))
        recorded = Entry.from_bytes(saved.entries[place]).digest
        return agrees(recorded, start.snapshot.last.answer, start.seq - 1, state, kind.code)

    async def _replay(
        self,
        instance: LiveEnv,
        env: Env,
        entries: Sequence[Entry],
        first: int,
        snapshot: Snapshot | None,
    ) -> None:
        """Play entries on from the step ``first`` in ``env``, and compare what it gives.

        Raises:
            ReplayDivergedError: It gives something else; the environment is disposed of.
        """
        kind = instance.kind

        def observe(env: Env, _: EncodedStep) -> int | None:
            return _state_digest(kind, env)

        played = await self._executor.play(kind, env, [entry.action for entry in entries], observe)
        for seq, ((answer, state), entry) in enumerate(zip(played, entries, strict=True), start=first):
            if not agrees(entry.digest, answer, seq, state, kind.code):
                self._executor.dispose(kind, env)
                raise ReplayDivergedError(instance.env_id, seq)
        instance.env = env
        instance.first_seq, instance.seq = first, first + len(entries)
        instance.reward_sum = _sum_before(instance, first, snapshot) + sum(
            answer.reward for answer, _ in played
        )
        if snapshot is not None:
            _restore_steps(instance, snapshot)
        if not entries:
            return
        instance.actions = [entry.action for entry in entries]
        instance.digests = [entry.digest for entry in entries]
        instance.history_bytes = sum(len(entry.action) for entry in entries)
        for entry, (answer, _) in zip(entries, played, strict=True):
            instance.set_last(identity_in(entry.action), answer, entry.operation)

    async def _restored(self, instance: LiveEnv, state: bytes) -> Env:
        return await self._executor.restore(instance.kind, instance.arguments, state)


def _last_snapshot(saved: Saved) -> _Start | None:
    """The snapshot, if it can be read and is of a step that the journal has."""
    if saved.snapshot is None:
        return None
    try:
        snapshot = Snapshot.from_json(saved.snapshot)
    except ValueError:
        logger.warning("snapshot is not readable; replaying without it", exc_info=True)
        return None
    if saved.first < snapshot.seq <= saved.first + len(saved.entries):
        return _Start(snapshot.seq, snapshot.state, snapshot)
    return None


def _sum_before(instance: LiveEnv, first: int, snapshot: Snapshot | None) -> float:
    """Return the sum of the rewards of the steps before ``first``, from what holds the state after them."""
    if snapshot is not None:
        return snapshot.reward_sum
    return instance.state_reward_sum if first else 0.0


def _entries(saved: Saved, first: int) -> list[Entry]:
    """The entries from the step ``first`` on.

    Raises:
        ValueError: Some of them are not kept.
    """
    if first < saved.first:
        raise ValueError(f"steps before {saved.first} were not read")
    return [Entry.from_bytes(entry) for entry in saved.entries[first - saved.first :]]


def _state_digest(kind: EnvKind, env: Any) -> int | None:
    """The digest of the environment's state, where it can be had."""
    if not kind.digests_state:
        return None
    try:
        digest: int = env.state_digest()
    except ENV_FAULTS:
        return None
    return digest


def _restore_header(instance: LiveEnv, header: Header) -> None:
    instance.keep(header.durability, header.env_kwargs)
    instance.episode = header.episode
    instance.seed = header.seed
    if header.run_id is not None:
        instance.arguments_digest = sys.intern(arguments_digest(header.env_kwargs))
    if header.state is not None:
        instance.state, instance.state_seq = header.state.encode(), header.state_seq
        instance.state_reward_sum = header.reward_sum
    instance.options = None if header.options is None else encode_kept(header.options)
    instance.effects = None if header.effects is None else encode_kept(header.effects)
    instance.resets = _as_bytes(header.resets)
    instance.earlier_resets = tuple(
        Beginning(operation.encode("latin-1"), seed, None if options is None else encode_kept(options))
        for operation, seed, options in header.earlier_resets
    )
    instance.past_operations = list(_as_bytes(header.past_operations)) or None


def _restore_steps(instance: LiveEnv, snapshot: Snapshot) -> None:
    """Know the steps of the last call as the snapshot does."""
    instance.past_operations = list(snapshot.past_operations) or None
    for operation, action, answer in (*snapshot.earlier, snapshot.last):
        instance.set_last(action, answer, operation)


def _as_bytes(operations: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(operation.encode("latin-1") for operation in operations)
