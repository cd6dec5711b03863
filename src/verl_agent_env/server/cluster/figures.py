"""Figures of a worker: what it has counted, and what it has done between two looks at that."""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.engine import Host
from verl_agent_env.histogram import quantile
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.verbs.values import STEP

STEP_ROUTE = "/api/environment/{env_id}/step"
BATCH_STEP_ROUTE = "/api/batch/step"
_MAX_RUNS = 1000
"""Runs that a worker tells of, those with the most live environments."""


@dataclass(frozen=True)
class WorkerFigures:
    """Counts of one worker since it started, and its live environments."""

    node: str
    """Node of the worker."""
    worker: Mapping[str, Any]
    """The worker, as :func:`shown_worker` describes it."""
    steps: int
    """Steps that it was asked for and did not send on."""
    step_counts: Sequence[int]
    """Single steps by the time to answer them, as :class:`~verl_agent_env.histogram.Histogram` counts."""
    batch_counts: Sequence[int]
    """Batches of steps by the time to answer them."""
    store_counts: Sequence[int]
    """Writes to the store by the time that they took; empty without a store."""
    errors: Mapping[str, int]
    """Failed requests and items, by code."""
    live: Mapping[str, int]
    """Live environments by env name."""
    runs: Sequence[tuple[str, str, int]]
    """Runs, each with the tag of its holder and its number of live environments."""

    @classmethod
    def of(cls, record: WorkerRecord, host: Host, metrics: Metrics) -> WorkerFigures:
        """Read the present figures of a worker."""
        single = metrics.answers(STEP_ROUTE)
        recorder, table = host.recorder, host.env_table
        return cls(
            node=record.node,
            worker={**shown_worker(record), "live_envs": len(table)},
            steps=sum(single) - metrics.forwarded(STEP_ROUTE) + metrics.batch_items(STEP.name),
            step_counts=single,
            batch_counts=metrics.answers(BATCH_STEP_ROUTE),
            store_counts=[
                sum(counts)
                for counts in zip(
                    *(part.write_s.counts for part in (() if recorder is None else recorder.journal.parts)),
                    strict=True,
                )
            ],
            errors=dict(metrics.errors),
            live={name: count for name, count in table.live.items() if count},
            runs=heapq.nlargest(_MAX_RUNS, table.run_sizes(), key=lambda run: run[2]),
        )

    def to_json(self) -> bytes:
        """Write the figures as another worker reads them."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: bytes) -> WorkerFigures:
        """Read what :meth:`to_json` wrote; fields of later versions are ignored.

        Raises:
            ValueError, TypeError: It is something else.
        """
        fields = orjson.loads(text)
        return cls(**{field.name: fields[field.name] for field in dataclasses.fields(cls)})

    @property
    def name(self) -> str:
        """Name of the worker."""
        return str(self.worker["name"])

    @property
    def address(self) -> str:
        """Address of the worker."""
        return str(self.worker["address"])

    def since(self, earlier: WorkerFigures | None) -> WorkerFigures | None:
        """Return what was counted since ``earlier`` figures; None if they are of another process or of none."""
        if earlier is None or earlier.worker["incarnation"] != self.worker["incarnation"]:
            return None
        return dataclasses.replace(
            self,
            steps=max(0, self.steps - earlier.steps),
            step_counts=_less(self.step_counts, earlier.step_counts),
            batch_counts=_less(self.batch_counts, earlier.batch_counts),
            store_counts=_less(self.store_counts, earlier.store_counts),
        )


def shown_worker(record: WorkerRecord) -> dict[str, Any]:
    """Describe a worker as clients see it: without the id of its supervisor, which is secret."""
    return {
        "name": record.name,
        "address": record.address,
        "pid": record.pid,
        "state": record.state,
        "live_envs": record.live_envs,
        "incarnation": record.incarnation,
        "started_at": record.started_at,
    }


def rates(parts: Iterable[WorkerFigures], seconds: float) -> dict[str, Any]:
    """Return steps a second and times in milliseconds of what was counted in some seconds, of one worker or of several."""
    parts = list(parts)
    return {
        "steps_per_s": round(sum(part.steps for part in parts) / seconds, 1) if parts else None,
        "step_ms": _times(part.step_counts for part in parts),
        "batch_ms": _times(part.batch_counts for part in parts),
        "store_ms": _times(part.store_counts for part in parts),
    }


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counts up."""
    summed: Counter[str] = Counter()
    for part in counts:
        summed.update(part)
    return dict(summed)


def _times(counts: Iterable[Sequence[int]]) -> dict[str, float] | None:
    """Return median and 99th percentile in milliseconds; None where nothing was counted."""
    summed = [sum(bucket) for bucket in zip(*filter(None, counts), strict=False)]
    median, high = quantile(summed, 0.5), quantile(summed, 0.99)
    return (
        None
        if median is None or high is None
        else {"p50": round(1e3 * median, 3), "p99": round(1e3 * high, 3)}
    )


def _less(counts: Sequence[int], earlier: Sequence[int]) -> list[int]:
    return [count - before for count, before in zip(counts, earlier, strict=False)]
