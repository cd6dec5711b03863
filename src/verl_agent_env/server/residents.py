"""The host's environments, as a member of a cluster sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from verl_agent_env import waits
from verl_agent_env.engine import Host
from verl_agent_env.errors import StoreUnavailableError


class Residents:
    """See :class:`verl_agent_env.cluster.member.Residents`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def count(self) -> int:
        """See :class:`~verl_agent_env.cluster.member.Residents`."""
        return len(self._host.directory)

    def count_in(self, slot: int) -> int:
        """See :class:`~verl_agent_env.cluster.member.Residents`."""
        return self._host.directory.in_slot[slot]

    def count_bound_to(self, slot: int) -> int:
        """See :class:`~verl_agent_env.cluster.member.Residents`."""
        return self._host.directory.bound_to_slot[slot]

    async def before_hand_over(self, slots: Collection[int]) -> Collection[int]:
        """See :class:`~verl_agent_env.cluster.member.Residents`."""
        if self._host.recorder is None:
            return slots
        await self._host.save_states(slots, waits.HAND_OVER_S)
        journal = self._host.recorder.journal
        with contextlib.suppress(StoreUnavailableError):
            await journal.flush(slots, patience_s=waits.HAND_OVER_S)
        return frozenset(slots).difference(journal.slots_pending())

    def abandon(self, slots: Collection[int], *, but_bound: bool = False) -> int:
        """See :class:`~verl_agent_env.cluster.member.Residents`."""
        return self._host.abandon(slots, but_bound=but_bound)
