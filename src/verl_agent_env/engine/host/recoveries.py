"""Recoveries for which calls wait: of environments that another worker held before."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar

from verl_agent_env import waits
from verl_agent_env.engine.environments.env_table import EnvTable
from verl_agent_env.engine.persistence.recovery import Recovery
from verl_agent_env.errors import RecoveryPendingError
from verl_agent_env.turns import patiently

T = TypeVar("T")


class Recoveries:
    """Recoveries of one host, each carried to its end, whoever stops waiting for it."""

    def __init__(self, recovery: Recovery | None, env_table: EnvTable) -> None:
        """Recover nothing yet.

        Args:
            recovery: Brings environments back; None where they are not kept outside this process.
            env_table: Those that are here.
        """
        self._recovery = recovery
        self._env_table = env_table
        self.under_way: set[asyncio.Task[Any]] = set()
        """Those that have not come to their end."""

    def missing(self, env_ids: Sequence[str]) -> list[str]:
        """Select the environments that another worker may have held before: neither live here nor closed."""
        if self._recovery is None:
            return []
        find, is_closed = self._env_table.get, self._env_table.was_closed
        return [env_id for env_id in env_ids if env_id and find(env_id) is None and not is_closed(env_id)]

    async def ensure(self, env_ids: Sequence[str]) -> Collection[str]:
        """Bring back those of these environments that another worker held before.

        Returns:
            Ids of which certainly nothing is kept. Of ids that are neither live now nor closed nor among these, nothing
            can be said: their slots went to other workers meanwhile.

        Raises:
            StoreUnavailableError: What is kept of them cannot be read.
            RecoveryPendingError: It takes too long.
        """
        missing = self.missing(env_ids)
        if not missing or self._recovery is None:
            return ()
        recovering = self._start(self._recovery.recover(missing))
        while True:
            done, _ = await asyncio.wait((recovering,), timeout=waits.RECOVERY_S)
            if done:
                return recovering.result()
            left = self.missing(missing)
            if len(left) == len(missing):
                raise RecoveryPendingError(waited_s=waits.RECOVERY_S)
            missing = left

    async def ensure_all(self) -> None:
        """Bring back all environments of this worker's slots that another worker held before.

        Raises:
            StoreUnavailableError: What is kept of them cannot be read.
            RecoveryPendingError: It takes too long.
        """
        if self._recovery is not None:
            recovering = self._start(self._recovery.recover_all())
            done, _ = await asyncio.wait((recovering,), timeout=waits.RUN_S)
            if not done:
                raise RecoveryPendingError(waited_s=waits.RUN_S)
            recovering.result()

    def _start(self, recovery: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(recovery, context=patiently())
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        # Looked at here, in case that nobody waits for it any more.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task
