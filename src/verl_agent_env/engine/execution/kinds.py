"""Loads kinds of environments off the event loop: importing one takes a tenth of a second, or much longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from verl_agent_env.engine.execution.executor import ENV_FAULTS
from verl_agent_env.envs.registry import Registry


class KindLoader:
    """Has kinds imported in threads, each by one of all who ask for it."""

    def __init__(
        self, registry: Registry, elsewhere: Callable[..., Awaitable[Any]] = asyncio.to_thread
    ) -> None:
        """Nothing is being loaded.

        Args:
            registry: Imports them.
            elsewhere: Calls a function with its arguments off the loop.
        """
        self._registry = registry
        self._elsewhere = elsewhere
        self._loading: dict[str, asyncio.Task[None]] = {}

    async def load(self, names: Iterable[str]) -> None:
        """Return when the kinds of these names can be had at once from the registry, which says what is wrong with one."""
        for name in names:
            if self._registry.is_loaded(name):
                continue
            loading = self._loading.get(name)
            if loading is None:
                loading = self._loading[name] = asyncio.get_running_loop().create_task(self._load(name))
                loading.add_done_callback(lambda _, name=name: self._loading.pop(name))  # type: ignore[misc]
            await asyncio.shield(loading)

    async def _load(self, name: str) -> None:
        with contextlib.suppress(*ENV_FAULTS):
            await self._elsewhere(self._registry.kind, name)
