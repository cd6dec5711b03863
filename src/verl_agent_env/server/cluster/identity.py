"""Identity of a worker process: address and pool of the worker, and messages from the supervisor."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass

from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.wire.suspicions import Suspicion


@dataclass(frozen=True)
class WorkerIdentity:
    """Identity of a worker process within its pool."""

    address: str
    """``host:port`` of its own."""
    pool: tuple[str, ...]
    """Addresses of all workers of the pool, its own included."""
    supervisor: str
    """Random id of the life of the pool's supervisor."""
    is_restart: bool = False
    """Whether another process was here before."""
    record_memory: memoryview | None = None
    """Where it writes for the supervisor what is under way."""
    suspicions: tuple[Suspicion, ...] = ()
    """What the supervisor holds against calls."""

    def record(self, node: str) -> WorkerRecord:
        """Make the worker's description of itself, as a part of this node."""
        return WorkerRecord(
            incarnation=uuid.uuid4().hex,
            name=f"{node or 'local'}:{self.address.rpartition(':')[2]}",
            node=node or "local",
            supervisor=self.supervisor,
            address=self.address,
            pid=os.getpid(),
            state="ready",
            started_at=time.time(),
        )
