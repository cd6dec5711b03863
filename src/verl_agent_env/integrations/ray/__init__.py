"""Ray: a cluster of servers on the machines of a Ray cluster, for the time of a job.

    ray.init()
    with start(nodes=4, workers_per_node=8) as servers:
        client = EnvClient(servers.url)

Nothing here imports Ray before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from verl_agent_env.integrations.requirements import require

if TYPE_CHECKING:
    from verl_agent_env.integrations.ray.servers import RayServers


def start(
    nodes: int | None = None,
    workers_per_node: int | None = None,
    *,
    cpus_per_node: float = 1.0,
    token: str | None = None,
    serve_options: Sequence[str] = (),
) -> RayServers:
    """Start servers on the machines of the Ray cluster, or find those that this job has started already.

    One node of the servers runs on each of ``nodes`` machines, Redis and nginx on the machine of the caller. A node whose
    machine is lost starts again once Ray has another machine for it; meanwhile its environments go on elsewhere. All of it ends
    with the process that started it, however that ends, or with :meth:`RayServers.stop`.

    Args:
        nodes: Number of machines; all that have ``cpus_per_node`` if not given.
        workers_per_node: Number of server processes on each; 2 if not given.
        cpus_per_node: CPUs that Ray reserves for a node.
        token: Bearer token that the servers ask for.
        serve_options: More options of ``verl-agent-env serve`` for all nodes.

    Returns:
        The servers, ready for work.

    Raises:
        FrameworkVersionError: Ray is missing, or of another version.
        TrainingSetupError: Ray is not initialized or has too few machines, a program is missing or does not start, or the servers
            of this job run with other numbers.
    """
    require("ray", "ray")
    from verl_agent_env.integrations.ray.servers import start_servers

    return start_servers(nodes, workers_per_node, cpus_per_node, token or "", tuple(serve_options))


def url_for_job(nodes: int | None, workers_per_node: int | None, token: str | None) -> str:
    """Return the URL of this job's servers, which are started if need be; a process looks once, however often it asks.

    Raises:
        TrainingSetupError: As :func:`start`.
    """
    require("ray", "ray")
    import ray

    context = ray.get_runtime_context() if ray.is_initialized() else None
    # Numbers of jobs begin anew in each cluster.
    key = (context and context.gcs_address, context and context.get_job_id(), nodes, workers_per_node, token)
    if key not in _urls:
        _urls[key] = start(nodes, workers_per_node, token=token).url
    return _urls[key]


_urls: dict[tuple[Any, ...], str] = {}
