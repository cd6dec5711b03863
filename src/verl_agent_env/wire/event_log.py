"""Where the history of live environments is kept, so that it outlives their workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from verl_agent_env.wire.records import Refusal, Saved, Write

MAX_LOADED = 256
"""Environments of one call of :meth:`EventLog.load`."""
ENOUGH_LOADED_BYTES = 1 << 20
"""Bytes at which the answer to one call is long enough; the store answers nobody else meanwhile."""
CLOSED_MEMORY_S = 600.0
"""How long it is known that an environment was closed."""


class EventLog(Protocol):
    """The kept history. Only the owner of a slot, which its token proves, changes what is kept of its environments.

    Every write gives the same result when it is made again, also much later: one that lost its answer may be sent
    again, and a late copy does no harm.

    Raises:
        StoreUnavailableError: From any call; whether a write took effect is then unknown.
    """

    async def commit(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
    ) -> list[Refusal]:
        """Make writes, in order, each of them whole or not at all.

        Args:
            generation: Of the data set that the tokens are of.
            tokens: Of all slots in ``writes``.
            writes: What to write.

        Returns:
            The writes that were not made.

        Raises:
            GenerationChangedError: The store was emptied; nothing was written.
        """

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        """What is kept of the first few of these environments: as many as one call carries, at least one.

        Args:
            env_ids: The environments.
            whole: Whether to give the whole journals, and not only what follows the snapshots.
        """

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        """The environments of these slots of which something is kept."""

    async def aclose(self) -> None:
        """Close connections; the log cannot be used afterwards."""
