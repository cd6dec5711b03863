"""Workers, nodes and nginx that die, stand still, are restarted or cut off."""

from __future__ import annotations

import asyncio
import os
import signal

from loadtests.chaos.fault import Strike
from loadtests.chaos.load import Load
from loadtests.chaos.steering import settled, start, worker_pid
from loadtests.namespaces import Network
from verl_agent_env.cluster.local import LocalCluster

_NGINX_NOTICES_S = 2.5
_BETWEEN_KILLS_S = 3.0


async def kill_worker(cluster: LocalCluster, _: Load) -> None:
    """``kill -9`` of one worker."""
    os.kill(await worker_pid(cluster), signal.SIGKILL)


async def kill_every_worker(cluster: LocalCluster, _: Load) -> None:
    """``kill -9`` of each worker in turn, so of whoever coordinates a batch, too."""
    for address in cluster.addresses:
        os.kill(await worker_pid(cluster, address), signal.SIGKILL)
        await asyncio.sleep(_BETWEEN_KILLS_S)
        await settled(cluster)


async def stop_worker(cluster: LocalCluster, _: Load) -> None:
    """A worker that stands still for twenty seconds, and wakes up."""
    pid = await worker_pid(cluster)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(20)
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        # Its supervisor has replaced it, as it should.
        return


async def kill_node(cluster: LocalCluster, _: Load) -> None:
    """The loss of a whole node, which comes back ten seconds later."""
    node = cluster.nodes[-1]
    await asyncio.to_thread(node.kill)
    await asyncio.sleep(10)
    await start(node, cluster)


async def kill_when_ready(cluster: LocalCluster, _: Load) -> None:
    """``kill -9`` at the moment at which a node says that it is ready: of a worker of each node, and of a whole new one."""
    for node in list(cluster.nodes):
        await asyncio.to_thread(node.stop)
        await asyncio.to_thread(cluster.start_node, node)
        os.kill(await worker_pid(cluster, node.addresses[0]), signal.SIGKILL)
        await settled(cluster)
        await asyncio.sleep(_NGINX_NOTICES_S)
    new = cluster.planned[0]
    await asyncio.to_thread(cluster.start_node, new)
    await asyncio.to_thread(new.kill)
    await settled(cluster)


async def rolling_restart(cluster: LocalCluster, _: Load) -> None:
    """Every node stopped and started, one after the other; nginx has noticed that one is back before the next goes."""
    for node in list(cluster.nodes):
        await asyncio.to_thread(node.stop)
        await start(node, cluster)
        await asyncio.sleep(_NGINX_NOTICES_S)


async def grow_and_shrink(cluster: LocalCluster, _: Load) -> None:
    """From two nodes to four and back; nginx knows all four by plan."""
    for node in cluster.planned:
        await start(node, cluster)
    for node in reversed(cluster.planned):
        await asyncio.to_thread(node.stop)
        await settled(cluster)
        await asyncio.sleep(_NGINX_NOTICES_S)


async def reload_nginx(cluster: LocalCluster, _: Load) -> None:
    """nginx told twenty times to read its configuration anew."""
    for _reload in range(20):
        cluster.nginx.signal(signal.SIGHUP)
        await asyncio.sleep(0.2)


def cut_off(network: Network) -> Strike:
    """The last node of two taken off the net for twenty seconds; its processes go on and know nothing."""

    async def strike(cluster: LocalCluster, _: Load) -> None:
        network.cut(cluster.nodes[-1].name)
        await asyncio.sleep(20)
        network.mend(cluster.nodes[-1].name)
        await settled(cluster)

    return strike
