"""``verl-agent-env list``: the registered environments."""

from __future__ import annotations

import click


@click.command("list")
@click.option("--verbose", "-v", is_flag=True, help="Also show each environment's arguments.")
def list_environments(verbose: bool) -> None:
    """List the registered environments, those of installed packages included."""
    from rich.console import Console
    from rich.table import Table

    from verl_agent_env.envs.registry import default_registry

    registry = default_registry()
    table = Table(box=None, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    if verbose:
        table.add_column("arguments", overflow="fold")
    for name in registry.names():
        try:
            kind = registry.kind(name)
        except ImportError as broken:
            table.add_row(name, f"cannot be imported: {broken}")
            continue
        arguments = ", ".join(kind.arguments_schema().get("properties", {}))
        table.add_row(name, kind.description, *([arguments] if verbose else []))
    Console().print(table)
