"""Environments that behave badly."""

from __future__ import annotations

from loadtests.chaos.load import Load
from verl_agent_env.cli.local_cluster import LocalCluster

_MISBEHAVE_S = 35.0


async def misbehave(_: LocalCluster, load: Load) -> None:
    """Environments that block for thirty seconds, raise, and leak, beside the others."""
    await load.misbehave(_MISBEHAVE_S)
