"""Brings back environments that another worker held, from the log."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Protocol

import orjson

from verl_agent_env.engine.execution import ENV_FAULTS, Env, Executor
from verl_agent_env.engine.instance import Beginning, Instance
from verl_agent_env.engine.persistence.journal import Journal, Tenure
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import ReplayDivergedError, VerlAgentEnvError
from verl_agent_env.types import NUM_SLOTS, slot_of
from verl_agent_env.wire.codec import ResetAnswer
from verl_agent_env.wire.log import Log
from verl_agent_env.wire.records import Entry, Header, Saved, Snapshot, Write, digest_of

logger = logging.getLogger(__name__)

_RECOVERED_BETWEEN_YIELDS = 8
_RECOVER_AT_ONCE = 256


class EnvironmentTable(Protocol):
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


class Recovery:
    """Brings back the environments of one host's slots."""

    def __init__(self, log: Log, tenure: Tenure, table: EnvironmentTable, journal: Journal) -> None:
        """Make a recovery that has brought back nothing yet.

        Args:
            log: Where to read.
            tenure: The slots that this worker owns.
            table: Where recovered environments go.
            journal: Writes once more what the store forgot.
        """
        self._log = log
        self._tenure = tenure
        self._table = table
        self._journal = journal
        self._recovering: dict[str, asyncio.Future[None]] = {}
        self.recovered = 0
        """Environments brought back."""

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
            missing = [e for e in missing if e not in mine and self._table.get(e) is None]
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
        missing = [env_id for env_id in env_ids if self._table.get(env_id) is None]
        for env_id in missing:
            reason = self._table.closed_as(env_id)
            if reason is not None:
                self._journal.write(Write("close", env_id, slot_of(env_id), 0, 0, reason.encode()))
        await self.recover([env_id for env_id in missing if self._table.closed_as(env_id) is None])
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
            if self._table.get(env_id) is not None:
                continue
            if not self._is_still_ours(env_id, tokens[env_id]):
                # What was read may be outdated: its owner goes on.
                continue
            if saved.header is None:
                if saved.closed_as is not None:
                    self._table.note_closed(env_id, saved.closed_as)
                else:
                    unknown.add(env_id)
                continue
            instance = await self._rebuilt(env_id, saved)
            is_wanted = instance is not None and self._table.get(env_id) is None
            if instance is not None and is_wanted and self._is_still_ours(env_id, tokens[env_id]):
                self._table.take_in(instance)
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
            kind = self._table.registry.kind(header.env_name)
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
                    env = await self._restored(instance, snapshot.state)
                    await self._replay(instance, env, entries, snapshot)
                    return
            except (*ENV_FAULTS, VerlAgentEnvError):
                logger.warning("a snapshot leads nowhere", exc_info=True, extra={"env_id": instance.env_id})
        env, _ = await self._begun_again(instance)
        await self._replay(instance, env, entries, None)

    async def _replay(
        self, instance: Instance, env: Env, entries: Sequence[Entry], snapshot: Snapshot | None
    ) -> None:
        """Play in ``env`` what follows after the snapshot, and compare what it gives."""
        kind, executor = instance.kind, self._table.executor
        done = 0 if snapshot is None else snapshot.seq
        answers = await executor.play(kind, env, [entry.action for entry in entries[done:]])
        for seq, answer in enumerate(answers, start=done):
            if digest_of(answer) != entries[seq].digest:
                executor.dispose(kind, env)
                raise ReplayDivergedError(instance.env_id, seq)
        instance.env = env
        instance.seq = len(entries)
        if not entries:
            return
        instance.actions = [entry.action for entry in entries]
        instance.digests = [entry.digest for entry in entries]
        instance.history_bytes = sum(len(entry.action) for entry in entries)
        if snapshot is not None:
            _restore_steps(instance, snapshot)
        for entry, answer in zip(entries[done:], answers, strict=True):
            instance.set_last(entry.action, answer, entry.operation)

    async def _restore(self, instance: Instance, saved: Saved) -> None:
        """Stand where the last snapshot stands, or at the beginning of the episode."""
        if saved.snapshot is None:
            if instance.state is None:
                raise ValueError("no state was kept")
            instance.env = await self._restored(instance, instance.state)
            return
        snapshot = Snapshot.from_json(saved.snapshot)
        instance.env = await self._restored(instance, snapshot.state)
        instance.state, instance.state_seq = snapshot.state, snapshot.seq
        instance.seq = snapshot.seq
        _restore_steps(instance, snapshot)

    async def _begun_again(self, instance: Instance) -> tuple[Env, ResetAnswer]:
        executor = self._table.executor
        return await executor.reset(instance.kind, instance.arguments, None, instance.seed, instance.options)

    async def _restored(self, instance: Instance, state: bytes) -> Env:
        return await self._table.executor.restore(instance.kind, instance.arguments, state)


def _is_of(snapshot: Snapshot, entries: Sequence[Entry]) -> bool:
    """Whether the snapshot stands somewhere in this journal."""
    seq = snapshot.seq
    return 0 < seq <= len(entries) and digest_of(snapshot.last.answer) == entries[seq - 1].digest


def _restore_header(instance: Instance, header: Header) -> None:
    instance.env_kwargs = header.env_kwargs
    instance.durability = header.durability
    instance.episode = header.episode
    instance.seed = header.seed
    instance.state = None if header.state is None else header.state.encode()
    instance.options = None if header.options is None else orjson.dumps(header.options)
    instance.resets = _as_bytes(header.resets)
    instance.earlier_resets = tuple(
        Beginning(operation.encode("latin-1"), seed, None if options is None else orjson.dumps(options))
        for operation, seed, options in header.earlier_resets
    )
    instance.past_operations = _as_bytes(header.past_operations)


def _restore_steps(instance: Instance, snapshot: Snapshot) -> None:
    """Know the steps of the last call as the snapshot does."""
    instance.past_operations = snapshot.past_operations
    for operation, action, answer in (*snapshot.earlier, snapshot.last):
        instance.set_last(action, answer, operation)


def _as_bytes(operations: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(operation.encode("latin-1") for operation in operations)
