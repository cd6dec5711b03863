"""Objects that all episodes of a process share: the client, so that their steps share requests, and rendered prompts."""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.integrations.rollout.clients import close_loop_clients, loop_clients
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.verl.rollout.rendering import remembering
from verl_agent_env.integrations.verl.rollout.shared_games import SharedGames

_MAX_PROMPTS = 4096


class Shared:
    """Shared objects of one event loop; :func:`shared` returns those of the running one."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[Hashable, asyncio.Future[list[int]]] = OrderedDict()
        self._builders: dict[Hashable, Any] = {}
        self.games: SharedGames[Any] = SharedGames()
        """Games of several seats."""

    def client(self, options: RolloutOptions) -> AsyncEnvClient:
        """Return the client for these options; it depends only on the options of the connection."""
        return loop_clients().client(options)

    def builder(self, fresh: Any) -> Any:
        """Return a token builder like ``fresh`` with a cache of renderings."""
        key = (type(fresh), fresh.tokenizer, repr(fresh.chat_template_kwargs))
        known = self._builders.get(key)
        if known is None:
            known = self._builders[key] = remembering(fresh)
        return known

    async def prompt(self, key: Hashable, render: Callable[[], list[int]]) -> list[int]:
        """Run ``render`` in a thread, once for each key.

        The samples of a group begin with the same prompt at the same time.
        """
        rendered = self._prompts.get(key)
        if rendered is None:
            rendered = asyncio.get_running_loop().run_in_executor(None, render)
            self._prompts[key] = rendered
            if len(self._prompts) > _MAX_PROMPTS:
                self._prompts.popitem(last=False)
        try:
            return list(await asyncio.shield(rendered))
        except Exception:
            self._prompts.pop(key, None)
            raise

    async def close(self) -> None:
        """Close all clients with their open environments, and clear the caches."""
        await self.games.close()
        self._prompts.clear()
        self._builders.clear()
        await close_loop_clients()


_of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Shared] = weakref.WeakKeyDictionary()


def shared() -> Shared:
    """Return the shared objects of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _of_loop.get(loop)
    if found is None:
        found = _of_loop[loop] = Shared()
    return found
