"""The cluster or its store does not allow the call: ownership of slots, worker leases, Redis."""

from __future__ import annotations

from dataclasses import field

from verl_agent_env.errors.base import VerlAgentEnvError


class ClusterError(VerlAgentEnvError, status=409):
    """The state of the cluster does not allow the call; nothing was changed."""


class WorkerNotAliveError(ClusterError, code="worker_not_alive"):
    """The worker's lease has expired, or the worker has left or was replaced."""

    title = "The worker is not alive"
    incarnation: str = ""
    reason: str = "expired"
    """``expired``: a heartbeat brings it back; ``ended``: it left or was reported dead, and stays so."""

    @property
    def detail(self) -> str:
        if self.reason == "ended":
            return f"The worker '{self.incarnation}' left or was reported dead; start it anew under another incarnation."
        return f"The worker '{self.incarnation}' has no live lease; it must send a heartbeat first."


class NameTakenError(ClusterError, code="worker_name_taken"):
    """Another node runs a live worker of this name."""

    title = "The worker's name is taken"
    detail_format = (
        "The worker name '{name}' is taken by a live worker at '{address}'; give this node another name, or wait for "
        "one lease if it was just restarted."
    )
    name: str = ""
    address: str = ""
    """Address of the worker that has the name."""


class SlotsDifferError(ClusterError, code="slots_differ"):
    """The cluster's data set has another number of slots than the worker."""

    title = "The cluster has another number of slots"
    detail_format = (
        "The cluster has {found} slots, and this node was told {wanted}: give it '--slots {found}', or a namespace or database "
        "of its own."
    )
    wanted: int = 0
    found: int = 0


class GenerationChangedError(ClusterError, code="store_generation_changed", status=503, retryable=True):
    """The store was flushed or replaced since the worker last read it."""

    title = "The store holds another data set"
    detail_format = (
        "The store was emptied or replaced: expected generation '{expected}', found '{found}'; retry."
    )
    expected: str = ""
    found: str = ""


class StoreUnavailableError(ClusterError, code="store_unavailable", status=503, retryable=True):
    """The store cannot be reached, or does not take writes."""

    title = "The store is not available"
    store: str = ""
    """URL of the store, without its password."""
    reason: str = "it does not answer"
    may_have_run: bool = False
    """True if the call may have been carried out."""

    @property
    def detail(self) -> str:
        where = f" at '{self.store}'" if self.store else ""
        return f"The store{where} is not available: {self.reason}; check that Redis runs there, then retry."


class EventLogsDifferError(StoreUnavailableError, code="event_logs_differ"):
    """The cluster keeps its event logs elsewhere than this node is told to."""

    title = "The cluster keeps its event logs elsewhere"
    found: str = ""
    """Addresses of the Redis that keep them; empty where it is the store itself."""
    given: str = ""
    """Those that this node was given."""

    @property
    def detail(self) -> str:
        found, given = (
            " and ".join(addresses.split()) or "that Redis itself" for addresses in (self.found, self.given)
        )
        return (
            f"The cluster whose nodes meet at '{self.store}' keeps its event logs in {found}, and this node was to keep them in"
            f" {given}. Give it the same --redis-log options as the others; a cluster with other logs needs another --namespace."
        )


class StoreFullError(StoreUnavailableError, code="store_full"):
    """The store is out of memory; closing environments frees some."""

    title = "The store is full"
    retry_after_s = 5
    reason: str = "it is out of memory"

    @property
    def detail(self) -> str:
        where = f" at '{self.store}'" if self.store else ""
        return (
            f"The store{where} is full: {self.reason}; raise the limit of Redis ('maxmemory') or close environments,"
            " then retry."
        )


class RecoveryPendingError(StoreUnavailableError, code="recovery_pending"):
    """The environment is still being recovered from the store; the recovery continues."""

    title = "The environment is being brought back"
    waited_s: float = 0.0

    @property
    def detail(self) -> str:
        return f"The environment is still being brought back after {self.waited_s:g} s, which goes on; retry."


class NodeNotFoundError(ClusterError, code="node_not_found", status=404):
    """No node has this name."""

    title = "There is no such node"
    node: str = ""
    nodes: list[str] = field(default_factory=list)
    """Names of the existing nodes."""

    @property
    def detail(self) -> str:
        return f"No node is called '{self.node}'; there are {', '.join(self.nodes) or 'none'}."


class MovedError(ClusterError, code="moved", status=421, retryable=True):
    """A worker forwarded the call to another one, which does not own the slot either."""

    title = "The slot has another owner"
    detail_format = "Slot {slot} belongs to another worker; read the map again and retry there."
    slot: int = 0


class WorkerUnreachableError(ClusterError, code="worker_unreachable", status=503, retryable=True):
    """The worker that owns the environment did not answer."""

    title = "The worker cannot be reached"
    address: str = ""
    reason: str = "it did not answer"
    may_have_run: bool = True
    """True if the call may have been carried out."""

    @property
    def detail(self) -> str:
        where = f" at '{self.address}'" if self.address else ""
        advice = "retry with the same 'seq'" if self.may_have_run else "nothing was done; retry"
        return f"The worker{where} that owns the environment cannot be reached: {self.reason}; {advice}."
