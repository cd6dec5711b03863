"""The plugin as verl loads it, in processes of their own: it acts on request only."""

from __future__ import annotations

import pytest

from tests.children import python

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl-cpu]'")

ASK = """
import verl
from verl.plugin.platform.platform_manager import PlatformRegistry, get_platform
from verl.workers.rollout.replica import RolloutReplicaRegistry
from verl.workers.rollout.base import get_rollout_class
names = "cpu" in PlatformRegistry.registered_names(), "cpu" in RolloutReplicaRegistry._registry
print("SAW", *names, get_platform().device_name, get_rollout_class("cpu").__name__ if names[1] else None)
"""


def seen(before: str = "", **variables: str) -> list[str]:
    done = python("-c", before + ASK, variables=variables)
    assert done.returncode == 0, done.stderr
    assert "could not be set up" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SAW")]
    return line.split()[1:]


def test_nothing_changes_unless_it_is_asked_for() -> None:
    assert seen()[:2] == ["False", "False"]


def test_on_request_the_cpu_is_a_platform_with_a_rollout() -> None:
    assert seen(VERL_PLATFORM="cpu") == ["True", "True", "cpu", "CpuRollout"]


def test_the_rollout_may_be_imported_before_verl() -> None:
    # An actor of Ray does so when it reads its class.
    first = "import verl_agent_env.integrations.verl.cpu.rollout"
    assert seen(first, VERL_PLATFORM="cpu") == ["True", "True", "cpu", "CpuRollout"]
