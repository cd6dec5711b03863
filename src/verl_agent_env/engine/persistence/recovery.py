"""Brings back environments that another worker held, from the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from verl_agent_env.config import HostLimits
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.execution.executor import Executor
from verl_agent_env.engine.persistence.journal import Journal
from verl_agent_env.engine.persistence.restoring import Restorer
from verl_agent_env.engine.persistence.sharded_journal import ShardedJournal, all_of
from verl_agent_env.engine.persistence.slot_ownership import SlotOwnership
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import AtCapacityError, StoreUnavailableError, VerlAgentEnvError
from verl_agent_env.turns import Turns
from verl_agent_env.types import slot_of
from verl_agent_env.wire.event_log import HistoryReader, shard_of
from verl_agent_env.wire.records import Entry, Saved, Write
from verl_agent_env.wire.suspicions import Suspicions

logger = logging.getLogger(__name__)

_CLAIMED_AT_ONCE = 256
"""Environments that one caller reads together; others that want one of them wait for it."""


class EnvironmentTable(Protocol):
    """Destination of recovered environments."""

    def get(self, env_id: str) -> LiveEnv | None:
        """The live environment of this id, if there is one."""

    def closed_as(self, env_id: str) -> str | None:
        """Return why an environment was closed; None if it is not known to be."""

    def adopt(self, instance: LiveEnv) -> None:
        """Make a recovered environment live."""

    def note_closed(self, env_id: str, reason: str) -> None:
        """Remember that an environment was closed elsewhere."""


class Recovery:
    """Brings back the environments of one host's slots.

    Those that run inline come back one after the other, with pauses in which others get their turn; the others side by
    side, as many as there are threads. Nobody waits for an environment that somebody else has asked for.
    """

    def __init__(
        self,
        log: HistoryReader,
        ownership: SlotOwnership,
        table: EnvironmentTable,
        journal: Journal | ShardedJournal,
        registry: Registry,
        executor: Executor,
        limits: HostLimits,
        suspicions: Suspicions,
        shards: int = 1,
    ) -> None:
        """Make a recovery that has brought back nothing yet.

        Args:
            log: Where to read.
            ownership: The slots that this worker owns.
            table: Where recovered environments go.
            journal: Writes once more what the store forgot.
            registry: Knows their kinds.
            executor: Runs their code.
            limits: Of the host.
            suspicions: Calls that may have ended a worker.
            shards: How many logs there are, each of a part of the slots.
        """
        self._shards = shards
        self._log = log
        self._ownership = ownership
        self._table = table
        self._journal = journal
        self._executor = executor
        self._suspicions = suspicions
        self._restorer = Restorer(registry, executor, log, limits.default_ttl_s, suspicions)
        self._room = Turns(limits.max_threads, "recoveries")
        self._yield_after_s = limits.yield_after_s
        self._slice_end = 0.0
        self._recovering: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.recovered = 0
        """Environments brought back."""

    async def recover(self, env_ids: Iterable[str]) -> set[str]:
        """Bring back those of these environments that are kept; what cannot come back is live, and lost.

        Returns:
            Those of which certainly nothing is kept. Of all that are neither live now nor closed nor among these, nothing
            can be said: their slots went to other workers meanwhile, or there was no room for them.

        Raises:
            StoreUnavailableError: A log does not answer; what is kept in others is brought back all the same.
        """
        if self._shards == 1:
            return await self._recover_from_one(env_ids)
        kept_in: dict[int, list[str]] = {}
        for env_id in env_ids:
            kept_in.setdefault(shard_of(slot_of(env_id), self._shards), []).append(env_id)
        return set().union(*await all_of([self._recover_from_one(part) for part in kept_in.values()]))

    async def _recover_from_one(self, env_ids: Iterable[str]) -> set[str]:
        """Bring back environments that are kept in one log; see :meth:`recover`."""
        unknown: set[str] = set()
        missing = list(dict.fromkeys(env_ids))
        while missing:
            under_way: list[str] = []
            waiting: set[asyncio.Future[None]] = set()
            mine: list[str] = []
            for env_id in missing:
                if self._table.get(env_id) is not None:
                    continue
                if env_id in self._recovering:
                    under_way.append(env_id)
                    continue
                mine.append(env_id)
                if len(mine) == _CLAIMED_AT_ONCE:
                    waiting |= await self._recover(mine, unknown)
                    mine = []
            waiting |= await self._recover(mine, unknown)
            waiting |= {self._recovering[env_id] for env_id in under_way if env_id in self._recovering}
            if waiting:
                await asyncio.wait(waiting)
            # Who was at it may have failed, or found nothing: then it is looked for once more.
            missing = under_way
        return unknown

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
            StoreUnavailableError: A log does not answer; what is kept in others is brought back all the same.
        """
        owned = sorted(self._ownership.tokens)
        kept_in = ([slot for slot in owned if shard_of(slot, self._shards) == n] for n in range(self._shards))
        await all_of([self.recover_slots(slots) for slots in kept_in])

    async def all_actions(self, instance: LiveEnv) -> list[bytes] | None:
        """Read all actions of an episode of which memory has the last ones; None if the first are kept nowhere.

        Raises:
            StoreUnavailableError: The log does not answer.
        """
        episode, first = instance.episode, instance.first_seq
        (saved,) = await self._log.load([instance.env_id], whole=True)
        early = saved.entries[:first]
        if len(early) < first or not all(early) or (episode, first) != (instance.episode, instance.first_seq):
            return None
        return [*(Entry.from_bytes(entry).action for entry in early), *(instance.actions or ())]

    async def _recover(self, env_ids: Sequence[str], unknown: set[str]) -> set[asyncio.Future[None]]:
        """Bring back environments that nobody else is at; whoever asks for one of them meanwhile waits for it.

        Returns:
            What is done when those have come back that go on in the background.
        """
        loop = asyncio.get_running_loop()
        self._recovering.update((env_id, loop.create_future()) for env_id in env_ids)
        tokens = [self._ownership.token_of(slot_of(env_id)) for env_id in env_ids]
        waiting = set()
        done = 0
        try:
            while done < len(env_ids):
                for saved in await self._log.load(env_ids[done:]):
                    env_id, token = env_ids[done], tokens[done]
                    instance = self._read(env_id, saved, token, unknown)
                    if instance is not None and instance.kind.execution != "inline":
                        waiting.add(self._recovering[env_id])
                        await self._bring_back_aside(instance, saved, token)
                    elif instance is not None:
                        await self._bring_back(instance, saved, token)
                    else:
                        self._finish(env_id)
                    done += 1
                    await self._let_others_through()
        finally:
            for env_id in env_ids[done:]:
                self._finish(env_id)
        return waiting

    def _read(self, env_id: str, saved: Saved, token: str | None, unknown: set[str]) -> LiveEnv | None:
        """Make an environment of what is kept of it, not yet played on; None if there is nothing to recover."""
        # What was read may be outdated: the slot's owner goes on.
        if self._table.get(env_id) is not None or not self._is_still_ours(env_id, token):
            return None
        if self._suspicions.is_examined(env_id):
            # Its worker may hang over it: it is nowhere until that is known, and is looked for again meanwhile.
            return None
        if saved.header is not None:
            return self._restorer.read(env_id, saved)
        if saved.closed_as is not None:
            self._table.note_closed(env_id, saved.closed_as)
        else:
            unknown.add(env_id)
        return None

    async def _bring_back_aside(self, instance: LiveEnv, saved: Saved, token: str | None) -> None:
        """Recover in the background; returns when there is room for it."""
        caller = await self._room.take()

        async def bring_back() -> None:
            try:
                await self._bring_back(instance, saved, token)
            except VerlAgentEnvError as failed:
                # It is looked for once more by whoever wants it. That a store is away is told elsewhere.
                logger.log(
                    logging.DEBUG if isinstance(failed, StoreUnavailableError) else logging.WARNING,
                    "recovery of an environment failed; the next call tries again",
                    extra={"env_id": instance.env_id, "code": failed.code, "detail": failed.detail},
                )
            finally:
                self._room.give_back(caller)

        task = asyncio.get_running_loop().create_task(bring_back())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_back(self, instance: LiveEnv, saved: Saved, token: str | None) -> None:
        env_id = instance.env_id
        try:
            await self._restorer.restore(instance, saved)
            if self._table.get(env_id) is None and self._is_still_ours(env_id, token):
                self._table.adopt(instance)
                self.recovered += 1
            elif instance.env is not None:
                self._executor.dispose(instance.kind, instance.env)
        except AtCapacityError as full:
            logger.warning(
                "recovery postponed: no capacity for the environment",
                extra={"env_id": env_id, "detail": full.detail},
            )
        finally:
            self._finish(env_id)

    def _finish(self, env_id: str) -> None:
        """Let those go on who wait for the environment, wherever it is now."""
        waiting = self._recovering.pop(env_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _let_others_through(self) -> None:
        now = time.perf_counter()
        if now > self._slice_end:
            await asyncio.sleep(0)
            self._slice_end = time.perf_counter() + self._yield_after_s

    def _is_still_ours(self, env_id: str, token: str | None) -> bool:
        """Tell whether this worker has owned the slot all the time since it had ``token``."""
        return token is not None and self._ownership.token_of(slot_of(env_id)) == token
