"""Completion of environments' names in a shell."""

from __future__ import annotations

import click

from verl_agent_env.envs.registry import default_registry


def complete_env_name(_: click.Context, __: click.Parameter, start: str) -> list[str]:
    """Return the names of environments that begin with ``start``; no environment is imported for it."""
    return default_registry().completions(start)
