"""The environments of a host, as the cluster agent sees them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from verl_agent_env import waits
from verl_agent_env.cluster.store import Formats
from verl_agent_env.engine import Host
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.execution.executor import ENV_FAULTS
from verl_agent_env.engine.persistence.saving import slots_calling_outside
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.types import slot_of
from verl_agent_env.wire.suspicions import Suspicion

logger = logging.getLogger(__name__)

NO_STATE = "none"
"""Format of kinds without a state."""


class LocalEnvironments:
    """Implements :class:`~verl_agent_env.cluster.agent.HostedEnvironments` for a :class:`Host`."""

    def __init__(
        self,
        host: Host,
        is_warm: Callable[[int], bool],
        unconfirmed: Callable[[Collection[int]], Awaitable[Collection[int]]],
    ) -> None:
        """Look at a host's environments.

        Args:
            host: The host.
            is_warm: Whether all environments of a slot that this worker owns have been brought back.
            unconfirmed: Finds slots of which what was written may be lost.
        """
        self._unconfirmed = unconfirmed
        self._host = host
        self._is_warm = is_warm
        self._asked: set[str] = set()

    def count(self) -> int:
        return len(self._host.env_table)

    def slots_in_use(self) -> Collection[int]:
        return [slot for slot, count in self._host.env_table.in_slot.items() if count]

    def count_not_durable(self, slot: int) -> int:
        return self._host.env_table.not_durable_in_slot[slot]

    async def prepare_hand_over(self, slots: Collection[int]) -> Collection[int]:
        if self._host.recorder is None:
            return slots
        instances = self._host.env_table.in_slots(slots)
        calling = await slots_calling_outside(instances, waits.HAND_OVER_S)
        slots = frozenset(slots) - calling
        await self._host.save_states(slots, waits.HAND_OVER_S)
        journal = self._host.recorder.journal
        with contextlib.suppress(StoreUnavailableError):
            await journal.flush(slots, patience_s=waits.HAND_OVER_S)
        # What this worker holds is all that there is of them: it writes it again before anybody else owns them.
        unconfirmed = await self._unconfirmed(slots)
        return slots.difference(journal.slots_pending(), unconfirmed)

    def reads(self) -> Mapping[str, str]:
        return {kind.name: kind.state_format or NO_STATE for kind in self._host.registry.known()}

    async def load_kinds(self, names: Collection[str]) -> None:
        unknown = set(names) - self._asked
        await self._host.kinds.load(unknown)
        self._asked |= unknown
        for name in sorted(unknown):
            try:
                self._host.registry.kind(name)
            except ENV_FAULTS as fault:
                logger.warning(
                    "environment kind of other workers is unusable here; they keep its environments",
                    extra={"env_name": name, "error": repr(fault)},
                )

    def unreadable_slots(self) -> frozenset[int]:
        return frozenset(map(slot_of, self._host.env_table.unreadable))

    def formats_in(self, slots: Collection[int]) -> Mapping[int, Formats]:
        found: dict[int, set[tuple[str, str]]] = {slot: set() for slot in slots}
        for instance in self._host.env_table.in_slots(slots):
            found[instance.slot].add((instance.kind.name, _format_of(instance)))
        known = self.reads().items()
        return {
            slot: frozenset(formats if self._is_warm(slot) else formats | known)
            for slot, formats in found.items()
        }

    def evict(self, slots: Collection[int], *, keep_not_durable: bool = False) -> int:
        return self._host.evict(slots, keep_not_durable=keep_not_durable)

    def update_suspicions(self, told: Mapping[str, Suspicion]) -> None:
        self._host.update_suspicions(told)


def _format_of(instance: LiveEnv) -> str:
    """The format of an environment's state."""
    return instance.unreadable or instance.kind.state_format or NO_STATE
