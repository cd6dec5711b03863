"""The servers of a Ray job: an actor for Redis and nginx, which has one for each node."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.ray.actors import ServersActor, Size, name_in_job, result_of

_DEFAULT_WORKERS = 2
_kept: dict[str, Any] = {}
"""Actors that this process has made, by name: Ray ends one whose first reference is dropped, and a URL is none."""


class RayServers:
    """The running servers; it can be sent to other processes of the job, and ends the servers at the end of ``with``."""

    def __init__(self, actor: Any, url: str) -> None:
        self.url = url
        """URL for clients: that of nginx, which sends each call to the node that has the environment."""
        self._actor = actor

    def stop(self) -> None:
        """End the servers, for all processes of the job; a second time does nothing."""
        # An error says that they have ended already.
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(self._actor.stop.remote())
        ray.kill(self._actor)
        _kept.pop(name_in_job(), None)

    def __enter__(self) -> RayServers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_servers(
    nodes: int | None, workers_per_node: int | None, cpus: float, token: str, serve_options: tuple[str, ...]
) -> RayServers:
    """Start the servers or find them; see :func:`verl_agent_env.integrations.ray.start`."""
    if not ray.is_initialized():
        raise TrainingSetupError("Ray is not initialized: call ray.init() first.")
    machines = sum(node["Alive"] and node["Resources"].get("CPU", 0) >= cpus for node in ray.nodes())
    size = Size(
        machines if nodes is None else nodes,
        _DEFAULT_WORKERS if workers_per_node is None else workers_per_node,
    )
    try:
        actor, url, running = _started(size, machines, cpus, token, serve_options)
    except ray.exceptions.ActorDiedError:
        # Those that were found had ended.
        try:
            actor, url, running = _started(size, machines, cpus, token, serve_options)
        except ray.exceptions.ActorDiedError as lost:
            raise TrainingSetupError(f"The servers did not start: {lost}") from lost
    for asked, found, name in (
        (nodes, running.nodes, "nodes"),
        (workers_per_node, running.workers_per_node, "workers_per_node"),
    ):
        if asked not in (None, found):
            raise TrainingSetupError(
                f"The servers of this job run already, with {name}={found}: ask for no other number, or stop them first."
            )
    _kept.setdefault(name_in_job(), actor)
    return RayServers(actor, url)


def _started(*arguments: Any) -> tuple[Any, str, Size]:
    """Return the actor of this job's servers once they run, a new one on this machine if there is none; their URL and size."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = (
        ray.remote(num_cpus=0)(ServersActor)
        .options(name=name_in_job(), get_if_exists=True, scheduling_strategy=here)
        .remote()
    )
    try:
        return actor, *result_of(actor.start.remote(*arguments))
    except ray.exceptions.ActorDiedError:
        # A process goes on finding an actor that has ended, by a name that it has used before, until it kills it.
        ray.kill(actor)
        _kept.pop(name_in_job(), None)
        raise
