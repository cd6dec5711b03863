"""Names of environments in other wires' paths."""

from __future__ import annotations

from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import UnknownEnvNameError


def name_in(path: str, prefix: str) -> str:
    """Give the part of a path between its prefix and its last part: names have a slash of their own."""
    return path.removeprefix(prefix).rpartition("/")[0]


def short_name(registry: Registry, full: str) -> str:
    """Give the name without its namespace, which fits into one part of a path, unless it means another environment."""
    short = full.partition("/")[2] or full
    try:
        return short if registry.resolve(short) == full else full
    except UnknownEnvNameError:
        return full
