"""LLM-agent environments for reinforcement learning, in process and over HTTP.

Importing the package makes its environments known to ``gymnasium.make``; none of their code is loaded before it is
asked for.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import Any as _Any

from verl_agent_env.envs.registry import register_with_gymnasium as _register_with_gymnasium

__version__ = "0.1.0"

_register_with_gymnasium()

_PLUGIN = ("VerifiersTaskset", "VerifiersEnv")


def __getattr__(name: str) -> _Any:
    """Return what verifiers looks for in a plugin, which is named by a top-level module: ``vf-eval verl-agent-env``."""
    if name == "__all__":
        return ["__version__", *(_PLUGIN if _find_spec("verifiers") else ())]
    if name in _PLUGIN:
        # By name: everything below the integrations imports this package.
        return _import_module("verl_agent_env.integrations.verifiers").plugin_class(name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
