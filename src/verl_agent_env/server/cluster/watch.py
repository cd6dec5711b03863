"""Watch of the cluster: what all workers are doing, in snapshots that all who look on share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from verl_agent_env import background
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.cluster.figures import WorkerFigures, rates, shown_worker, total
from verl_agent_env.server.cluster.membership import Membership
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.http.types import Request, Response, Route
from verl_agent_env.wire.codec import encode

INTERVAL_S = 2.0
"""Between two snapshots."""
_FIRST_S = 0.5
"""Between the first two: rates need both."""
_CALL_S = 1.0
FIGURES_PATH = "/internal/figures"


class SharedSnapshot:
    """The cluster as of one moment, written once for all who look on."""

    def __init__(
        self, cluster: bytes, slots: bytes, slots_version: int, parts: Sequence[WorkerFigures]
    ) -> None:
        self.cluster = cluster
        """Nodes, workers and rates, as JSON."""
        self.slots = slots
        """Owner of each slot, as JSON."""
        self.slots_version = slots_version
        """Another one as soon as a slot has another owner."""
        self._parts = parts

    def live_of_run(self, run_id: str, tag: str | None) -> int:
        """Return the number of live environments of a run; with a ``tag``, of those of its holder."""
        runs = (run for part in self._parts for run in part.runs)
        return sum(live for name, holder, live in runs if name == run_id and tag in (None, holder))


class ClusterWatch:
    """Makes a snapshot of the cluster every two seconds, as long as anybody looks on; without anybody it does nothing."""

    def __init__(
        self,
        own: Callable[[], WorkerFigures],
        membership: Membership,
        table: SlotTable,
        peers: Peers,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Watch nothing yet.

        Args:
            own: Reads the figures of this worker.
            membership: Names the workers.
            table: Knows who owns the slots.
            peers: The other workers.
            interval_s: Seconds between two snapshots.
        """
        self._interval_s = interval_s
        self._own = own
        self._membership = membership
        self._table = table
        self._peers = peers
        self._task: asyncio.Task[None] | None = None
        self._num_watching = 0
        self._is_stopping = False
        self._latest: SharedSnapshot | None = None
        self._changed = asyncio.Event()
        self._before: dict[str, WorkerFigures] = {}
        self._looked_at = 0.0
        self._slots: tuple[tuple[list[str], list[int]], bytes, int] | None = None
        self._asked: tuple[float, bytes] | None = None

    @property
    def is_watching(self) -> bool:
        """True while snapshots are made."""
        return self._task is not None

    async def snapshots(self) -> AsyncGenerator[SharedSnapshot, None]:
        """Yield a snapshot at once, and each that follows, until :meth:`stop`; who takes long misses some."""
        self._num_watching += 1
        if self._task is None and not self._is_stopping:
            self._task = background.start("cluster watch", self._run)
        seen: SharedSnapshot | None = None
        try:
            while not self._is_stopping:
                latest, changed = self._latest, self._changed
                if latest is None or latest is seen:
                    await changed.wait()
                else:
                    seen = latest
                    yield latest
        finally:
            self._num_watching -= 1
            if not self._num_watching:
                self._rest()

    def stop(self) -> None:
        """End all that :meth:`snapshots` yields, because the server stops."""
        self._is_stopping = True
        self._wake()

    def routes(self) -> list[Route]:
        """The calls between workers."""
        return [Route("GET", FIGURES_PATH, self.figures, "Figures of a worker", auth_scope="admin")]

    async def figures(self, request: Request) -> Response:
        """Answer with this worker's figures, which all who ask within half an interval share."""
        now = time.monotonic()
        if self._asked is None or now - self._asked[0] > self._interval_s / 2:
            self._asked = now, self._own().to_json()
        return Response(self._asked[1])

    def _rest(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._latest, self._before, self._slots = None, {}, None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        while True:
            is_first = not self._before
            self._latest = await self._look()
            self._wake()
            await asyncio.sleep(min(_FIRST_S, self._interval_s) if is_first else self._interval_s)

    async def _look(self) -> SharedSnapshot:
        version, known = self._membership.known()
        others = [address for address in known if address != self._table.address]
        answers = await asyncio.gather(*map(self._ask, others))
        now = time.monotonic()
        parts = [self._own(), *(part for part in answers if part is not None)]
        unheard = (known[address] for address, part in zip(others, answers, strict=True) if part is None)
        silent = [record for record in unheard if record is not None]
        seconds = now - self._looked_at
        news = {part.name: part.since(self._before.get(part.name)) for part in parts}
        self._before, self._looked_at = {part.name: part for part in parts}, now
        names = {part.address: part.name for part in parts} | {
            record.address: record.name for record in silent
        }
        slots, slots_version = self._slots_by(names)
        owned = self._table.slots_by_address()
        nodes: dict[str, list[dict[str, Any]]] = {}
        for part in parts:
            own_news = news[part.name]
            shown = {**part.worker, **rates([] if own_news is None else [own_news], seconds)}
            nodes.setdefault(part.node, []).append(shown)
        for record in silent:
            nodes.setdefault(record.node, []).append(
                {**shown_worker(record), "state": "silent", **rates([], seconds)}
            )
        for workers in nodes.values():
            workers.sort(key=lambda worker: str(worker["name"]))
            for worker in workers:
                worker["slots"] = owned.get(str(worker["address"]), 0)
        cluster = {
            "at": round(time.time(), 3),
            "interval_s": self._interval_s,
            "map_version": version,
            "num_slots": self._table.num_slots,
            "nodes": [{"name": name, "workers": workers} for name, workers in sorted(nodes.items())],
            **rates([part for part in news.values() if part is not None], seconds),
            "errors": total(part.errors for part in parts),
            "live": total(part.live for part in parts),
        }
        return SharedSnapshot(encode(cluster), slots, slots_version, parts)

    async def _ask(self, address: str) -> WorkerFigures | None:
        try:
            answer = await self._peers.call(address, "GET", FIGURES_PATH, timeout_s=_CALL_S)
            return WorkerFigures.from_json(answer.body)
        except (VerlAgentEnvError, ValueError, TypeError, KeyError):
            # Not there, or of an earlier version.
            return None

    def _slots_by(self, names: Mapping[str, str]) -> tuple[bytes, int]:
        """Write who owns each slot, as positions in a list of workers, anew only if that has changed.

        Args:
            names: Names of the workers by their addresses.
        """
        workers = sorted(names.values())
        numbers: dict[str | None, int] = {address: workers.index(name) for address, name in names.items()}
        owners = [numbers.get(self._table.owner_of(slot), -1) for slot in range(self._table.num_slots)]
        if self._slots is None or self._slots[0] != (workers, owners):
            version = 1 if self._slots is None else self._slots[2] + 1
            self._slots = (workers, owners), encode({"workers": workers, "owners": owners}), version
        return self._slots[1:]
