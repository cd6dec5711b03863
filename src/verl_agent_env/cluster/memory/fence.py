"""The tokens of one of several logs, in the memory of a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from verl_agent_env.cluster.log_shards import NOT_BEFORE, Installation
from verl_agent_env.errors import GenerationChangedError

_NOTHING = Installation("", 0)


class MemoryFence:
    """:class:`~verl_agent_env.cluster.log_shards.Fence` for workers that share one event loop; no method awaits anything."""

    where = "memory"

    def __init__(self, new_id: Callable[[], str]) -> None:
        """Create a data set without tokens.

        Args:
            new_id: Makes ids of data sets.
        """
        self._new_id = new_id
        self._generation = new_id()
        self._installed: dict[int, Installation] = {}

    def clear(self) -> None:
        """Lose all data, as after ``FLUSHALL`` in Redis."""
        self._generation = self._new_id()
        self._installed.clear()

    async def generation(self) -> str:
        return self._generation

    async def install(
        self,
        generation: str,
        version: int,
        tokens: Mapping[int, str],
        since: Mapping[int, int] = NOT_BEFORE,
    ) -> dict[int, Installation]:
        if generation != self._generation:
            raise GenerationChangedError(generation, self._generation)
        former = {slot: self._installed.get(slot, _NOTHING) for slot in tokens}
        for slot, token in tokens.items():
            there = former[slot]
            has_another = there.token != token and there.version > since.get(slot, there.version)
            if there.version <= version and not has_another:
                self._installed[slot] = Installation(token, version)
        return former

    async def aclose(self) -> None:
        """Implement :meth:`Fence.aclose`."""

    def owned_under(self, tokens: Mapping[int, str]) -> set[int]:
        """Return the slots of which these are the installed tokens."""
        installed = self._installed
        return {slot for slot, token in tokens.items() if installed.get(slot, _NOTHING).token == token}
