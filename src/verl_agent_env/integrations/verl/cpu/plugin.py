"""The entry point that verl loads in every process; it acts only if ``VERL_PLATFORM`` is ``cpu``."""

from __future__ import annotations

import importlib
import logging
import os

from verl_agent_env.integrations.verl.requirements import require_verl

logger = logging.getLogger(__name__)

PLATFORM_VARIABLE = "VERL_PLATFORM"
ROLLOUT = "cpu"
"""The backend's name, for ``actor_rollout_ref.rollout.name``."""
_ENGINE_VARIABLE = "VERL_ENGINE_DEVICE"
_ROLLOUT_MODULE = "verl_agent_env.integrations.verl.cpu.rollout"


def activate() -> None:
    """Register the platform and the rollout backend, and replace functions of verl that need an accelerator."""
    require_verl()
    # verl's engines are registered for devices; those of FSDP are PyTorch alone and run on any.
    os.environ.setdefault(_ENGINE_VARIABLE, "cuda")
    from verl_agent_env.integrations.verl.cpu import overrides, platform

    platform.install()
    overrides.install()
    _register_rollout()


def _register_rollout() -> None:
    """Register the backend by name, because its module imports verl, which may be importing this one at the moment."""
    import verl.workers.rollout.base
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    RolloutReplicaRegistry.register(ROLLOUT, lambda: importlib.import_module(_ROLLOUT_MODULE).CpuReplica)
    # verl has no function to register the trainer's half.
    registry = verl.workers.rollout.base._ROLLOUT_REGISTRY  # noqa: SLF001
    registry[ROLLOUT, "async"] = f"{_ROLLOUT_MODULE}.CpuRollout"


if os.environ.get(PLATFORM_VARIABLE, "").strip().lower() == "cpu":
    try:
        activate()
    except Exception:
        # verl passes over a plugin that fails without a word, and then fails itself at something else.
        logger.exception("the CPU platform for verl could not be set up")
        raise
