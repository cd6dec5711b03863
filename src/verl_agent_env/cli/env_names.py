"""Completion of environments' names and tags in a shell."""

from __future__ import annotations

import click

from verl_agent_env.envs.registry import default_registry


def complete_env_name(_: click.Context, __: click.Parameter, start: str) -> list[str]:
    """Return the names of environments that begin with ``start``; no environment is imported for it."""
    return default_registry().completions(start)


def complete_tag(_: click.Context, __: click.Parameter, start: str) -> list[str]:
    """Return the tags of environments that begin with ``start``."""
    tags = {tag for spec in default_registry().all_specs() for tag in spec.tags}
    return sorted(tag for tag in tags if tag.startswith(start))
