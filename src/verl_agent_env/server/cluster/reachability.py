"""Reachability: whether each worker can be reached at the address that its node advertises, as seen from other nodes.

A worker that others cannot reach joins the cluster, gets slots, and then every call that must be passed on to it fails.
So each worker that joins is called once by a worker of the next node and by one of the node before, in the order of
their names; what they find is in their logs. The number of calls is twice the number of workers, however many
nodes there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection

from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.cluster.membership import Membership, record_at
from verl_agent_env.server.cluster.peers import Peers

logger = logging.getLogger(__name__)

_TRIES = 3
_CALL_S = 5.0


class ReachabilityCheck:
    """Calls workers of the two neighbouring nodes when they join, and logs those that it does not reach."""

    def __init__(self, membership: Membership, peers: Peers, *, pause_s: float) -> None:
        """Make a check that :meth:`run` carries out.

        Args:
            membership: Who is in the cluster.
            peers: The other workers.
            pause_s: Seconds between two looks at the members. A worker is called at three looks before it counts as
                unreachable; one that has ended has left the cluster by then.
        """
        self._membership = membership
        self._peers = peers
        self._pause_s = pause_s
        self._tries: dict[str, int] = {}
        """Calls left for each worker in the cluster, by incarnation; 0 for one that is done."""

    async def run(self) -> None:
        """Look at the members for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._pause_s)

    async def look(self) -> None:
        """Call those of this worker's part that it has not reached yet; those that left the cluster are forgotten."""
        members = [record for record in self._membership.known()[1].values() if record is not None]
        part = {record.incarnation: record for record in part_of(self._membership.record(), members)}
        self._tries = {incarnation: self._tries.get(incarnation, _TRIES) for incarnation in part}
        await asyncio.gather(*(self._call(part[key]) for key, left in self._tries.items() if left))

    async def _call(self, worker: WorkerRecord) -> None:
        reason = await self._reason_why_not(worker)
        left = self._tries[worker.incarnation] = self._tries[worker.incarnation] - 1 if reason else 0
        if reason and not left:
            logger.warning(
                "another worker cannot be reached at the address that its node advertises; calls that must go there fail: "
                "start that node with an --advertise that other machines can reach",
                extra={"worker": worker.name, "address": worker.address, "reason": reason},
            )

    async def _reason_why_not(self, worker: WorkerRecord) -> str:
        try:
            found = await record_at(self._peers, worker.address, _CALL_S)
        except VerlAgentEnvError as failed:
            return str(failed)
        except (ValueError, TypeError):
            return "another program answers there"
        return "" if found.incarnation == worker.incarnation else f"the worker {found.name} answers there"


def part_of(me: WorkerRecord, members: Collection[WorkerRecord]) -> list[WorkerRecord]:
    """Return the workers that ``me`` calls: of the next node and of the one before, each as one of all workers of its node."""
    by_node: defaultdict[str, list[WorkerRecord]] = defaultdict(list)
    for record in members:
        by_node[record.node].append(record)
    nodes = sorted(by_node)
    if me.node not in by_node or len(nodes) == 1:
        return []
    colleagues = sorted({me.name, *(record.name for record in by_node[me.node])})
    mine, number = colleagues.index(me.name), nodes.index(me.node)
    neighbours = {nodes[(number + 1) % len(nodes)], nodes[number - 1]}
    return [
        record
        for node in sorted(neighbours)
        for index, record in enumerate(sorted(by_node[node], key=lambda record: record.name))
        if index % len(colleagues) == mine
    ]
