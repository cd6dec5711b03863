"""Every Redis key, in one place.

All keys of a namespace carry the same hash tag, ``{namespace}``, so they lie in one hash slot of a Redis Cluster and a
script may touch any of them. What Redis Cluster needs beyond that:

- *As one data set*, which gives fail-over but no more throughput, nothing: point the URL at the cluster's current
  primary or at a proxy that follows it. Fail-over is asynchronous and may roll back the last writes
  (``min-replicas-to-write`` bounds how many); a rolled-back token fences its holder, it never makes two owners.
- *Spread over servers*: each Redis that keeps event logs alone has a namespace of its own (:meth:`Keys.of_logs`). No script ever
  needs the keys of two of them.

Scripts build the key of another worker's lease from a prefix in ARGV, because they find the worker in the data. Redis
Cluster allows that, since the tag is the same; a proxy that routes by KEYS sees the tag as well.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass

from verl_agent_env.types import NUM_SLOTS, slot_text

_OF_LOGS = ".log"
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Keys:
    """Names of the keys of one data set."""

    namespace: str = "verl_agent_env"
    num_slots: int = NUM_SLOTS
    part: str = ""
    """Follows the namespace in each key: a data set of its own with the hash tag of the namespace."""

    def __post_init__(self) -> None:
        # Braces would move the hash tag.
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ValueError(
                f"a namespace is made of letters, digits, '_', '.' and '-'; '{self.namespace}' is not"
            )

    def of_logs(self) -> Keys:
        """Return the names of the keys in each Redis that keeps event logs alone; it may be that of the other keys as well."""
        return dataclasses.replace(self, namespace=f"{self.namespace}{_OF_LOGS}")

    @classmethod
    def of_cluster(cls, namespace: str, num_slots: int = NUM_SLOTS) -> Keys:
        """Return the names of the keys of a cluster.

        Raises:
            ValueError: The namespace has another form, or is that of another cluster's event logs.
        """
        if namespace.endswith(_OF_LOGS):
            raise ValueError(
                f"'{namespace}' is the namespace of the event logs of a cluster; another one must not end with '{_OF_LOGS}'"
            )
        return cls(namespace, num_slots)

    @property
    def generation(self) -> str:
        """String: id of this data set, and after a blank the addresses of the Redis that keep the event logs, if there are others."""
        return f"{self.base}gen"

    @property
    def primary(self) -> str:
        """String: run id of the server that was the primary when the generation began, where Sentinels elect primaries."""
        return f"{self.base}primary"

    @property
    def version(self) -> str:
        """String: version of the map. Its changes are published on the channel of the same name."""
        return f"{self.base}mapv"

    @property
    def num_slots_kept(self) -> str:
        """String: number of slots of the data set, since the first worker has joined."""
        return f"{self.base}slots"

    @property
    def changes(self) -> str:
        """Stream: what is new in each of the last versions of the map, under the version as id."""
        return f"{self.base}changes"

    @property
    def owners(self) -> str:
        """Hash: slot (three or four hex digits) to token."""
        return f"{self.base}own"

    @property
    def owner_versions(self) -> str:
        """Hash: slot to the version of the map under which its token was installed, in each of several logs."""
        return f"{self.owners}:versions"

    @property
    def names(self) -> str:
        """Hash: worker name to the incarnation that had it last, dead or alive."""
        return f"{self.base}names"

    @property
    def expiries(self) -> str:
        """Sorted set: worker name by the end of its lease, in ms of Redis' clock. A hint for finding expired leases."""
        return f"{self.base}expiries"

    @property
    def suspicions(self) -> str:
        """Hash: :attr:`~verl_agent_env.wire.suspicions.Suspicion.key` to its end, in ms of Redis' clock, a line break, and
        the suspicion (JSON)."""
        return f"{self.base}suspicions"

    @property
    def lease_prefix(self) -> str:
        """Start of :meth:`lease`."""
        return f"{self.base}w:"

    def lease(self, incarnation: str) -> str:
        """Hash with ``record, name, supervisor, shape, address, ttl``; expires with its worker's lease."""
        return self.lease_prefix + incarnation

    @property
    def ended_prefix(self) -> str:
        """Start of :meth:`ended`."""
        return f"{self.base}ended:"

    def ended(self, incarnation: str) -> str:
        """String that expires: the incarnation has ended, and its heartbeats are refused."""
        return self.ended_prefix + incarnation

    @functools.cached_property
    def base(self) -> str:
        """Start of all keys; :data:`log_scripts.COMMIT` lists those of environments."""
        return f"{{{self.namespace}}}:{self.part}"

    def members(self, slot: int) -> str:
        """Set: ids of the environments in a slot."""
        return f"{self.base}e:{self.field(slot)}"

    def field(self, slot: int) -> str:
        """Return the digits of a slot, as ids begin with them."""
        return slot_text(slot, self.num_slots)

    def slots_in(self, fields: str) -> list[int]:
        """Read slots whose digits follow one another."""
        digits = len(self.field(0))
        return [int(fields[start : start + digits], 16) for start in range(0, len(fields), digits)]

    def bundles(self, log: str) -> list[str]:
        """Keys of one writer's bundles: a list, the set of their slots, and the number of the writer's last call."""
        return [f"{self.base}b:{log}", f"{self.base}bs:{log}", f"{self.base}bn:{log}"]

    @property
    def logs(self) -> str:
        """Set: names of the writers of which there are bundles."""
        return f"{self.base}logs"

    def results(self, run: str) -> str:
        """Hash that expires: task to its tries, successes and sum of rewards, of one run."""
        return f"{self.base}r:{run}"

    def idempotency_record(self, name: str) -> str:
        """String that expires: the record of an ``Idempotency-Key``, under a digest of the key and its holder."""
        return f"{self.base}i:{name}"

    @property
    def episode_rows(self) -> str:
        """List: rows of the kept episodes (JSON), oldest first."""
        return f"{self.base}episodes"

    @property
    def episode_counts(self) -> str:
        """Hash: ``bytes`` of all kept episodes, number of the ``first`` row that is left, and the list's ``origin``."""
        return f"{self.base}episodes:counts"

    @property
    def episode_prefix(self) -> str:
        """Start of :meth:`episode`."""
        return f"{self.base}episode:"

    def episode(self, episode_id: str) -> str:
        """String: a kept episode (JSON)."""
        return self.episode_prefix + episode_id
