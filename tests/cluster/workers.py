"""Workers that exist only as records."""

from __future__ import annotations

import dataclasses
import itertools
import uuid
from typing import Any

from verl_agent_env.cluster.store import ClusterMap, WorkerRecord

_numbers = itertools.count(1)


def worker(incarnation: str = "", **fields: Any) -> WorkerRecord:
    """A worker that is ready, alone under its name and address, and younger than all before."""
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "incarnation": incarnation or uuid.uuid4().hex,
        "name": f"node-a:{8000 + number}",
        "node": "node-a",
        "supervisor": "supervisor-a",
        "address": f"127.0.0.1:{8000 + number}",
        "pid": 100 + number,
        "state": "ready",
        "started_at": float(number),
    }
    return WorkerRecord(**{**defaults, **fields})


def unchanging(cluster: ClusterMap) -> ClusterMap:
    """A map without what changes by itself: numbers of environments, and how long suspicions last."""
    workers = {name: dataclasses.replace(record, live_envs=0) for name, record in cluster.workers.items()}
    suspicions = {key: dataclasses.replace(kept, lasts_s=0.0) for key, kept in cluster.suspicions.items()}
    return dataclasses.replace(cluster, workers=workers, suspicions=suspicions)
