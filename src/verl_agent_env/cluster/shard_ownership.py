"""A worker's ownership of the slots of one of several logs, as this log knows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

from verl_agent_env.cluster.log_shards import Fence
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import was_interrupted
from verl_agent_env.errors import GenerationChangedError, StoreUnavailableError
from verl_agent_env.wire.event_log import shard_of

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
"""How often it is looked whether the log was emptied or is away, while nothing is written."""
_RETRY_S = 0.25


class _Held(NamedTuple):
    """A slot as this worker installed its token last."""

    lease: tuple[str, str]
    """Data set and token of this worker's ownership, as the store had them last."""
    token: str
    version: int


class ShardOwnership:
    """Installs the tokens of one log, for the slots of it that the slot table says are this worker's.

    What is in memory of a slot counts as long as nobody else has installed a token there since this worker last did. That is
    so, too, when the store was emptied meanwhile, or the log itself: this worker then goes on under the token that it had.
    If somebody else did, what is in memory is void, and the slot is this worker's anew, under another token.

    Implements :class:`~verl_agent_env.engine.persistence.slot_ownership.SlotOwnership` for what is written to the log, and
    :class:`~verl_agent_env.cluster.slots.SlotProofs` for the slot table.
    """

    def __init__(
        self,
        table: SlotTable,
        number: int,
        count: int,
        fence: Fence,
        advance: Callable[[int], Awaitable[None]],
        *,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Own nothing until :meth:`run`.

        Args:
            table: Slots of this worker, as the store has them.
            number: Number of the log.
            count: How many logs there are.
            fence: Tokens of the log.
            advance: Makes the version of the map higher than the given one (:meth:`Store.advance`).
            new_id: Makes tokens.
        """
        self._table = table
        self._number = number
        self._count = count
        self._fence = fence
        self._advance = advance
        self._new_id = new_id
        self.generation = ""
        """Id of the log's data set."""
        self.tokens: Mapping[int, str] = {}
        """Token of each slot of the log that this worker owns: another mapping whenever one of them, or the data set, changes."""
        self._held: dict[int, _Held] = {}
        self._look_now = asyncio.Event()
        self.is_away = False
        """True while the log does not answer."""

    def token_of(self, slot: int) -> str | None:
        """Return the token of a slot; None as long as it is not installed."""
        return self.tokens.get(slot)

    def owns(self, slot: int) -> bool:
        """Tell whether this worker may act for the slot now."""
        return self._table.owns(slot)

    def has_gone(self, slot: int) -> bool:
        """Tell whether another worker owns the slot."""
        return self._table.has_gone(slot)

    def has(self, slot: int) -> bool:
        """Tell whether the slot is one of the log's, whoever owns it."""
        return shard_of(slot, self._count) == self._number

    def was_refused(self) -> bool:
        """Have all tokens installed once more: the log knows another one, or is another data set."""
        self._withdraw()
        return True

    def follow(self, is_of_another: Callable[[int], bool], released: Collection[int]) -> None:
        wanted = self._wanted()
        kept = {
            slot: token
            for slot, token in self.tokens.items()
            if slot not in released and wanted.get(slot) == self._held[slot].lease
        }
        if len(kept) != len(self.tokens):
            self.tokens = kept
        for slot, held in [*self._held.items()]:
            lease = wanted.get(slot, held.lease)
            if is_of_another(slot) or was_interrupted(held.lease, lease):
                # What was in memory was given up: should the slot come back, nothing from before may be written.
                del self._held[slot]
            elif lease != held.lease:
                # Noted although the log may be out of reach: the next one is compared with it, as for what is in memory.
                self._held[slot] = held._replace(lease=lease)
        if len(kept) != len(wanted):
            self._look_now.set()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when slots may have come, or after ``timeout_s``."""
        await self._table.wait_for_change(timeout_s)

    async def unconfirmed(self, slots: Collection[int]) -> Collection[int]:
        """Find those of these slots of which the log may have lost what was written to it: it was emptied, or does not answer."""
        try:
            if await self._fence.generation() != self.generation:
                self._withdraw()
        except StoreUnavailableError:
            return slots
        return [slot for slot in slots if slot not in self.tokens]

    async def run(self, evict: Callable[[Collection[int]], object]) -> None:
        """Install tokens whenever the table changes, until cancelled.

        Args:
            evict: Called with slots of which what is in memory is void.
        """
        while True:
            self._look_now.clear()
            try:
                await self._look(evict)
            except StoreUnavailableError as away:
                self._note(away)
                await asyncio.sleep(_RETRY_S)
            except GenerationChangedError:
                self._withdraw()
            else:
                self._note(None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._look_now.wait()

    async def _look(self, evict: Callable[[Collection[int]], object]) -> None:
        """Look at the data set of the log, and install what is not installed there."""
        generation = await self._fence.generation()
        if generation != self.generation:
            self._withdraw()
            self.generation = generation
        # Nobody else has owned these slots since this data set began, if that is a new one. If what is asked for arrives late,
        # the version of the map tells.
        provable = self._table.provable()
        missing = {
            slot: lease
            for slot, lease in self._wanted().items()
            if slot not in self.tokens and slot in provable
        }
        if missing:
            await self._install(missing, evict)

    async def _install(
        self, leases: Mapping[int, tuple[str, str]], evict: Callable[[Collection[int]], object]
    ) -> None:
        generation, version, new = self.generation, self._table.version, self._new_id()
        tokens = {slot: self._token_for(slot, lease) or new for slot, lease in leases.items()}
        before = {slot: self._held.get(slot) for slot in leases}
        since = {
            slot: held.version
            for slot, held in before.items()
            if held is not None and held.token == tokens[slot]
        }
        former = await self._fence.install(generation, version, tokens, since)
        installed, void, latest = {}, set(), 0
        wanted = self._wanted()
        for slot, (token, known) in former.items():
            held, was_there = self._held.get(slot), token == tokens[slot]
            if held is not before[slot]:
                # It went meanwhile, and with it what was in memory.
                self._look_now.set()
            elif held is not None and not was_there and tokens[slot] == held.token and known > held.version:
                # Another worker was the owner meanwhile.
                void.add(slot)
            elif not was_there and known > version:
                latest = max(latest, known)
            elif wanted.get(slot) == leases[slot]:
                self._held[slot] = _Held(leases[slot], tokens[slot], max(version, known))
                installed[slot] = tokens[slot]
        if void:
            for slot in void:
                del self._held[slot]
            evict(void)
            self._look_now.set()
        if generation == self.generation and installed:
            self.tokens = {**self.tokens, **installed}
            self._table.prove(installed)
        if latest:
            # The store turned back, or this worker has not heard yet whose the slot is: the next map tells.
            await self._advance(latest)

    def _token_for(self, slot: int, lease: tuple[str, str]) -> str | None:
        """Return the token with which this worker goes on in a slot; None if its ownership is a new one."""
        held = self._held.get(slot)
        return None if held is None or was_interrupted(held.lease, lease) else held.token

    def _wanted(self) -> dict[int, tuple[str, str]]:
        """Return the slots of the log that are this worker's by the map, each with data set and token of the store."""
        generation = self._table.generation
        return {slot: (generation, token) for slot, token in self._table.tokens.items() if self.has(slot)}

    def _withdraw(self) -> None:
        """Own nothing until it is installed again."""
        if self.tokens:
            self._table.doubt(self.tokens)
            self.tokens = {}
        self._look_now.set()

    def _note(self, away: StoreUnavailableError | None) -> None:
        """Say once that the log is away, and once that it is back."""
        if away is not None and not self.is_away:
            logger.warning(
                "event log unreachable: calls on environments in its slots wait",
                extra={"shard": self._number, "detail": away.detail},
            )
        elif away is None and self.is_away:
            logger.info("event log reachable again", extra={"shard": self._number})
        self.is_away = away is not None
