"""Keeps live environments in the log as they change, and brings back those that another worker held."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from verl_agent_env import __version__
from verl_agent_env.engine.execution import ENV_FAULTS, Env, Executor
from verl_agent_env.engine.instance import Instance
from verl_agent_env.engine.journal import Group, Journal, Tenure
from verl_agent_env.envs.base import Durability
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import ReplayDivergedError, VerlAgentEnvError
from verl_agent_env.types import NUM_SLOTS, slot_of
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer
from verl_agent_env.wire.log import Log
from verl_agent_env.wire.records import Entry, Header, RefusalReason, Saved, Snapshot, Write, digest_of

logger = logging.getLogger(__name__)

_RECOVERED_BETWEEN_YIELDS = 8
_RECOVER_AT_ONCE = 256
# So many steps are played again at most, however long the episode is.
_STEPS_BETWEEN_SNAPSHOTS = 16


class Residence(Protocol):
    """Where recovered environments go: the host."""

    executor: Executor
    registry: Registry

    def get(self, env_id: str) -> Instance | None:
        """The live environment of this id, if there is one."""

    def closed_as(self, env_id: str) -> str | None:
        """Why an environment was closed, if it is known to be."""

    def take_in(self, instance: Instance) -> None:
        """Make a recovered environment live."""

    def note_closed(self, env_id: str, reason: str) -> None:
        """Remember that an environment was closed elsewhere."""

    def let_go(self, env_id: str) -> None:
        """Forget an environment that another worker owns."""


class Keeper:
    """The kept history of one host's environments.

    How an environment is kept depends on its kind (:class:`~verl_agent_env.envs.kind.EnvKind`): its steps
    (``journal``), its state after each step (``snapshot``), its steps without waiting for them to be written
    (``relaxed``), or only that it exists (``none``).
    """

    def __init__(
        self, log: Log, tenure: Tenure, residence: Residence, durabilities: Mapping[str, Durability]
    ) -> None:
        """A keeper of nothing yet.

        Args:
            log: Where to write.
            tenure: The slots that this worker owns.
            residence: The environments.
            durabilities: How to keep environments of these names, where it is not as their kinds have it.
        """
        self._log = log
        self._tenure = tenure
        self._residence = residence
        self._durabilities = dict(durabilities)
        self.journal = Journal(log, tenure, self.restate, self._refused)
        self._recovering: dict[str, asyncio.Future[None]] = {}
        self.recovered = 0
        """Environments brought back."""

    def durability_of(self, kind: EnvKind) -> Durability:
        """How environments of this kind are kept."""
        return self._durabilities.get(kind.name, kind.durability)

    # --- what happens is written ----------------------------------------------------------------------------

    def created(self, instance: Instance) -> None:
        """An environment has begun its first episode."""
        self._write(instance, "create", _header(instance))

    def begun(self, instance: Instance) -> None:
        """Another episode has begun."""
        self._write(instance, "begin", _header(instance))

    def stepped(self, instance: Instance, action: bytes, answer: StepAnswer) -> None:
        """A step was applied: ``instance`` stands after it."""
        seq = instance.seq - 1
        if instance.durability == "snapshot":
            self._write(instance, "save", _snapshot(instance), instance.seq)
        elif instance.durability != "none":
            digest = instance.digests[-1] if instance.digests else digest_of(answer)
            entry = b"%b\n%b\n%b" % (instance.last_operation, digest, action)
            self._write(instance, "append", entry, seq)
            if instance.kind.has_state and instance.seq % _STEPS_BETWEEN_SNAPSHOTS == 0:
                self._write(instance, "save", _snapshot(instance), instance.seq)

    def closed(self, instance: Instance, reason: str) -> None:
        """An environment has come to its end."""
        self._write(instance, "close", reason.encode())

    def restate(self, env_id: str) -> tuple[Write, ...]:
        """Writes that say all of a live environment; none if it is not here, or its history was not kept."""
        instance = self._residence.get(env_id)
        if instance is None or instance.lost is not None:
            return ()
        entries: tuple[bytes, ...] = ()
        if instance.durability in ("journal", "relaxed"):
            if not instance.history_complete or (instance.seq and instance.digests is None):
                return ()
            entries = tuple(
                Entry(instance.last_operation if seq == instance.seq - 1 else b"", digest, action).to_bytes()
                for seq, (digest, action) in enumerate(
                    zip(instance.digests or (), instance.actions or (), strict=True)
                )
            )
        slot, episode = slot_of(env_id), instance.episode
        whole = Write("put", env_id, slot, episode, len(entries), _header(instance), entries)
        if instance.durability == "snapshot" and instance.seq:
            return whole, Write("save", env_id, slot, episode, instance.seq, _snapshot(instance))
        return (whole,)

    def restate_all(self, env_ids: Iterable[str]) -> None:
        """State everything again, in a store that was emptied."""
        for env_id in env_ids:
            for write in self.restate(env_id):
                self.journal.write(write)

    def group_of(self, instance: Instance) -> Group | None:
        """The group that answers about the environment have to wait for; None when all is written."""
        group = instance.group
        return None if group is None or group.is_done or instance.durability == "relaxed" else group

    def _write(self, instance: Instance, kind: Any, data: bytes, seq: int = 0) -> None:
        env_id = instance.env_id
        instance.group = self.journal.write(
            Write(kind, env_id, int(env_id[:3], 16), instance.episode, seq, data)
        )

    def _refused(self, env_id: str, reason: RefusalReason) -> None:
        """The environment lives elsewhere, or nowhere: what is here of it is worthless."""
        logger.debug("an environment was taken away", extra={"env_id": env_id, "reason": reason})
        self._residence.let_go(env_id)

    # --- what was written comes back ------------------------------------------------------------------------

    async def recover(self, env_ids: Sequence[str]) -> set[str]:
        """Bring back those of these environments that are kept; what cannot come back is live, and lost.

        Returns:
            Those of which certainly nothing is kept. Of all that are neither live now nor closed nor among these, nothing
            can be said: their slots went to other workers meanwhile.

        Raises:
            StoreUnavailableError: The log does not answer.
        """
        unknown: set[str] = set()
        missing = list(dict.fromkeys(env_ids))
        while missing:
            # Looked at anew for each few: others begin with some of them meanwhile.
            free = (env_id for env_id in missing if env_id not in self._recovering)
            mine = set(itertools.islice(free, _RECOVER_AT_ONCE))
            if mine:
                unknown |= await self._recover_alone(list(mine))
            else:
                await asyncio.wait({self._recovering[env_id] for env_id in missing})
            # Who is at it already may fail, or find nothing: then it is looked for once more.
            missing = [e for e in missing if e not in mine and self._residence.get(e) is None]
        return unknown

    async def _recover_alone(self, env_ids: Sequence[str]) -> set[str]:
        """As :meth:`recover`; whoever asks for them meanwhile waits."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._recovering |= dict.fromkeys(env_ids, done)
        try:
            return await self._recover(env_ids)
        finally:
            for env_id in env_ids:
                del self._recovering[env_id]
            done.set_result(None)

    async def recover_slots(self, slots: Sequence[int]) -> int:
        """Bring back all environments of slots that this worker owns; returns how many there are.

        Those that were closed here are closed once more: a store that lost the end of its data may have forgotten it.
        """
        env_ids = await self._log.env_ids(slots)
        missing = [env_id for env_id in env_ids if self._residence.get(env_id) is None]
        for env_id in missing:
            reason = self._residence.closed_as(env_id)
            if reason is not None:
                self.journal.write(Write("close", env_id, slot_of(env_id), 0, 0, reason.encode()))
        await self.recover([env_id for env_id in missing if self._residence.closed_as(env_id) is None])
        return len(env_ids)

    async def recover_all(self) -> None:
        """Bring back all environments of all slots that this worker owns.

        Raises:
            StoreUnavailableError: The log does not answer.
        """
        owned = [slot for slot in range(NUM_SLOTS) if self._tenure.token_of(slot) is not None]
        await self.recover_slots(owned)

    async def _recover(self, env_ids: Sequence[str]) -> set[str]:
        unknown = set()
        tokens = {env_id: self._tenure.token_of(slot_of(env_id)) for env_id in env_ids}
        for nth, (env_id, saved) in enumerate(zip(env_ids, await self._log.load(env_ids), strict=True)):
            if self._residence.get(env_id) is not None:
                continue
            if not self._is_still_ours(env_id, tokens[env_id]):
                # What was read may be outdated: its owner goes on.
                continue
            if saved.header is None:
                if saved.closed_as is not None:
                    self._residence.note_closed(env_id, saved.closed_as)
                else:
                    unknown.add(env_id)
                continue
            instance = await self._rebuilt(env_id, saved)
            is_wanted = instance is not None and self._residence.get(env_id) is None
            if instance is not None and is_wanted and self._is_still_ours(env_id, tokens[env_id]):
                self._residence.take_in(instance)
                self.recovered += 1
            if nth % _RECOVERED_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
        return unknown

    def _is_still_ours(self, env_id: str, token: str | None) -> bool:
        """Whether this worker has owned the slot all the time since it had ``token``."""
        return token is not None and self._tenure.token_of(slot_of(env_id)) == token

    async def _rebuilt(self, env_id: str, saved: Saved) -> Instance | None:
        """The environment as it stood."""
        instance = None
        try:
            header = Header.from_json(saved.header or b"")
            kind = self._residence.registry.kind(header.env_name)
            arguments = kind.validate(header.env_kwargs)
            instance = Instance(env_id, kind, arguments, header.run_id, header.ttl_s)
            _restore_header(instance, header)
            if header.durability == "none":
                instance.lost = "the worker that held it has ended, and its kind cannot be brought back"
            elif header.durability == "snapshot":
                await self._restore(instance, saved)
            else:
                await self._play_on(instance, saved)
        except ReplayDivergedError as diverged:
            logger.error("a replay diverged", extra={"env_id": env_id, "seq": diverged.seq})
            if instance is not None:
                instance.lost = diverged.detail
                instance.diverged_at = diverged.seq
        except (*ENV_FAULTS, VerlAgentEnvError) as fault:
            logger.warning("an environment did not come back", exc_info=True, extra={"env_id": env_id})
            if instance is not None:
                instance.lost = f"it could not be brought back: {type(fault).__name__}"
        return instance

    async def _play_on(self, instance: Instance, saved: Saved) -> None:
        """Play the journal again from the last snapshot on; from the beginning if that cannot be."""
        entries = [Entry.from_bytes(entry) for entry in saved.entries]
        if saved.snapshot is not None:
            try:
                snapshot = Snapshot.from_json(saved.snapshot)
                if _is_of(snapshot, entries):
                    env = await self._restored(instance, snapshot)
                    await self._replay(instance, env, entries, snapshot.seq, snapshot.answer)
                    return
            except (*ENV_FAULTS, VerlAgentEnvError):
                logger.warning("a snapshot leads nowhere", exc_info=True, extra={"env_id": instance.env_id})
        env, _ = await self._begun_again(instance)
        await self._replay(instance, env, entries, 0, None)

    async def _replay(
        self, instance: Instance, env: Env, entries: Sequence[Entry], done: int, last: StepAnswer | None
    ) -> None:
        """Play what follows after the first ``done`` entries in ``env``, and compare what it gives."""
        kind, executor = instance.kind, self._residence.executor
        answers = await executor.play(kind, env, [entry.action for entry in entries[done:]])
        for seq, answer in enumerate(answers, start=done):
            if digest_of(answer) != entries[seq].digest:
                executor.dispose(kind, env)
                raise ReplayDivergedError(instance.env_id, seq)
        instance.env = env
        _set_history(instance, entries, answers[-1] if answers else last)

    async def _restore(self, instance: Instance, saved: Saved) -> None:
        """Stand where the last snapshot stands, or at the beginning of the episode."""
        if saved.snapshot is None:
            instance.env, _ = await self._begun_again(instance)
            return
        snapshot = Snapshot.from_json(saved.snapshot)
        instance.env = await self._restored(instance, snapshot)
        instance.seq, instance.last_action, instance.last_answer = (
            snapshot.seq,
            snapshot.action,
            snapshot.answer,
        )
        instance.last_operation = snapshot.operation
        instance.ended = snapshot.answer.terminated or snapshot.answer.truncated

    async def _begun_again(self, instance: Instance) -> tuple[Env, ResetAnswer]:
        executor = self._residence.executor
        return await executor.reset(instance.kind, instance.arguments, None, instance.seed, instance.options)

    async def _restored(self, instance: Instance, snapshot: Snapshot) -> Env:
        return await self._residence.executor.restore(instance.kind, instance.arguments, snapshot.state)


def _is_of(snapshot: Snapshot, entries: Sequence[Entry]) -> bool:
    """Whether the snapshot stands somewhere in this journal."""
    seq = snapshot.seq
    return 0 < seq <= len(entries) and digest_of(snapshot.answer) == entries[seq - 1].digest


def _header(instance: Instance) -> bytes:
    return Header(
        env_name=instance.kind.name,
        env_kwargs=instance.env_kwargs or {},
        run_id=instance.run_id,
        ttl_s=instance.ttl_s,
        durability=instance.durability,
        episode=instance.episode,
        seed=instance.seed,
        options=None if instance.options is None else orjson.Fragment(instance.options),
        created_at=round(time.time(), 3),
        version=__version__,
        resets=[operation.decode("latin-1") for operation in instance.resets],
    ).to_json()


def _restore_header(instance: Instance, header: Header) -> None:
    instance.env_kwargs = header.env_kwargs
    instance.durability = header.durability
    instance.episode = header.episode
    instance.seed = header.seed
    instance.options = None if header.options is None else orjson.dumps(header.options)
    instance.resets = tuple(operation.encode("latin-1") for operation in header.resets)


def _set_history(instance: Instance, entries: Sequence[Entry], last: StepAnswer | None) -> None:
    instance.seq = len(entries)
    if last is None:
        return
    instance.actions = [entry.action for entry in entries]
    instance.digests = [entry.digest for entry in entries]
    instance.history_bytes = sum(len(entry.action) for entry in entries)
    instance.last_action, instance.last_operation = entries[-1].action, entries[-1].operation
    instance.last_answer = last
    instance.ended = last.terminated or last.truncated


def _snapshot(instance: Instance) -> bytes:
    env: Any = instance.env
    if instance.last_answer is None or instance.last_action is None:
        raise ValueError("an environment that took no step has nothing to save")
    return Snapshot(
        instance.seq, env.snapshot(), instance.last_operation, instance.last_action, instance.last_answer
    ).to_json()
