"""Brings environments back in slots that came to this worker, before anybody asks for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from verl_agent_env.engine import Host
from verl_agent_env.engine.persistence import Persistence
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.turns import Caller, current_caller
from verl_agent_env.types import slot_of

logger = logging.getLogger(__name__)

_SLOTS_AT_ONCE = 64
_RETRY_S = 0.25
_LOOK_S = 1.0
# What a store forgot that nobody writes any more, such as the end of an environment, is found by looking at everything.
_SWEEP_S = 20.0


class OwnedSlots(Protocol):
    """The slots of this worker that are written to one log."""

    @property
    def generation(self) -> str:
        """Id of the data set in which this worker owns them; empty before it owned any."""

    @property
    def tokens(self) -> Mapping[int, str]:
        """Token of each of them."""

    def has(self, slot: int) -> bool:
        """Tell whether a slot is written to this log, whoever owns it."""

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when slots may have come, or after ``timeout_s``."""


class Handover:
    """Follows the slots of one worker, as far as they are written to one log.

    An environment that is asked for comes back at once; this is for all the others, so that they are reaped and closed
    with their run like any other. In a store that was emptied, what is in memory is re-persisted.
    """

    def __init__(self, host: Host, persistence: Persistence, table: OwnedSlots) -> None:
        self._host = host
        self._recorder, self._recovery = persistence
        self._table = table
        self._warm: dict[int, str] = {}
        """Token under which the environments of a slot were brought back."""
        self._generation = ""
        self._swept_at = float("-inf")

    async def run(self) -> None:
        """Follow the table, until cancelled."""
        # Nobody waits for what it brings back.
        current_caller.set(Caller(patience_s=None))
        while True:
            try:
                await self.catch_up()
            except StoreUnavailableError:
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception:
                logger.exception("recovering environments of new slots failed; retrying")
                await asyncio.sleep(_LOOK_S)
            await self._table.wait_for_change(_LOOK_S)

    def is_warm(self, slot: int) -> bool:
        """Tell whether this worker owns the slot and has all its environments in memory."""
        token = self._table.tokens.get(slot)
        return token is not None and self._warm.get(slot) == token

    async def catch_up(self) -> None:
        """Return when everything in this worker's slots is live here.

        Raises:
            StoreUnavailableError: The store is away.
        """
        generation, tokens = self._table.generation, dict(self._table.tokens)
        if not generation:
            return
        if generation != self._generation:
            if self._generation and tokens:
                has = self._table.has
                env_ids = [env_id for env_id in self._host.env_table.ids() if has(slot_of(env_id))]
                logger.warning(
                    "Redis was flushed: re-persisting its environments", extra={"count": len(env_ids)}
                )
                self._recorder.repersist_all(env_ids)
                self._warm = tokens
            if tokens or not self._generation:
                self._generation = generation
        now = asyncio.get_running_loop().time()
        if now - self._swept_at > _SWEEP_S:
            self._swept_at, self._warm = now, {}
        await self._warm_up(tokens)

    async def _warm_up(self, tokens: Mapping[int, str]) -> None:
        self._warm = {slot: token for slot, token in self._warm.items() if tokens.get(slot) == token}
        cold = [slot for slot in tokens if slot not in self._warm]
        for start in range(0, len(cold), _SLOTS_AT_ONCE):
            slots = cold[start : start + _SLOTS_AT_ONCE]
            await self._recovery.recover_slots(slots)
            self._warm |= {slot: tokens[slot] for slot in slots}
