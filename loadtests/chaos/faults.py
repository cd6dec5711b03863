"""All faults that a cluster promises to survive, in the order in which they strike."""

from __future__ import annotations

import asyncio
from pathlib import Path

from loadtests.chaos import code_faults, env_faults, log_faults, node_faults, redis_faults
from loadtests.chaos.fault import Fault
from loadtests.namespaces import Network
from verl_agent_env.cluster.local import Machine


async def nothing(*_: object) -> None:
    """No fault, for comparison."""
    await asyncio.sleep(10)


_LEASE_S = 5.0
ANYWHERE = (
    Fault("nothing", nothing, 2.0),
    Fault("kill -9 of a worker", node_faults.kill_worker, 2.0, may_refuse=True),
    Fault("kill -9 of every worker in turn", node_faults.kill_every_worker, 2.0, may_refuse=True),
    Fault("SIGSTOP of a worker for 20 s", node_faults.stop_worker, _LEASE_S + 2.0, may_refuse=True),
    Fault("whole node killed", node_faults.kill_node, _LEASE_S + 2.0, may_refuse=True),
    Fault("kill -9 at once after ready", node_faults.kill_when_ready, _LEASE_S + 2.0, may_refuse=True),
    Fault("rolling restart of all nodes", node_faults.rolling_restart, _LEASE_S, max_added_p99_s=0.25),
    Fault("2 to 4 to 2 nodes", node_faults.grow_and_shrink, _LEASE_S, max_added_p99_s=0.25),
    Fault("nginx reloaded 20 times", node_faults.reload_nginx, 2.0, may_refuse=True),
    Fault("Redis killed and restarted", redis_faults.restart_redis, _LEASE_S + 2.0, may_refuse=True),
    Fault("Redis emptied", redis_faults.flush_redis, _LEASE_S + 2.0, may_refuse=True),
    Fault(
        "Redis emptied beside broken ones", redis_faults.flush_beside_broken, _LEASE_S + 2.0, may_refuse=True
    ),
    Fault(
        "Redis full", redis_faults.fill_redis, redis_faults.FULL_S + 15.0 + _LEASE_S + 2.0, may_refuse=True
    ),
    Fault("actions of 60 KB, then kill -9", env_faults.poison, 2.0, may_refuse=True),
    Fault("environments that block, raise, leak", env_faults.misbehave, 2.0, max_p99_ratio=1.1),
    Fault("Redis away for 30 s", redis_faults.redis_away, 30.0 + _LEASE_S + 2.0, may_refuse=True),
)
"""Those that need no network of their own."""


_PROGRAMS = ("redis", "nginx", "node-1", "node-2")


def faults_of(network: Network | None, releases: Path) -> list[Fault]:
    """All of them; without namespaces those that need none.

    Args:
        network: Of the machines.
        releases: Where nodes look for packages first.
    """
    upgrade = code_faults.Releases(releases).upgrade
    here = {} if network is None else dict.fromkeys(_PROGRAMS, Machine(network.addresses["clients"]))
    away_s = log_faults.AWAY_S + _LEASE_S + 2.0
    faults = [
        *ANYWHERE,
        Fault(
            "one of two event logs away for 10 s",
            log_faults.one_log_away(here, away_s),
            _LEASE_S + 2.0,
            may_refuse=True,
        ),
        Fault("rolling upgrade to changed code", upgrade, _LEASE_S, max_added_p99_s=0.25),
    ]
    if network is not None:
        cut, parted = node_faults.cut_off(network), redis_faults.part_from_redis(network, _LEASE_S + 2.0)
        parted_s = redis_faults.PARTED_S + _LEASE_S + 2.0
        faults.append(Fault("node cut off for 20 s", cut, _LEASE_S + 2.0, may_refuse=True))
        faults.append(Fault("node cut off from Redis alone", parted, parted_s, may_refuse=True))
    return faults
