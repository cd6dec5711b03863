"""``verl-agent-env list``: the registered environments."""

from __future__ import annotations

from typing import Any

import click

from verl_agent_env.cli.json_output import json_option, print_json


@click.command("list")
@click.option("--verbose", "-v", is_flag=True, help="Also show each environment's arguments.")
@json_option("Print names, descriptions and the JSON Schema of the arguments as JSON.")
def list_environments(verbose: bool, as_json: bool) -> None:
    """List the registered environments, those of installed packages included."""
    if as_json:
        print_json(_described())
        return
    from rich.table import Table

    from verl_agent_env.cli.terminal import print_table

    table = Table(box=None, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    if verbose:
        table.add_column("arguments", overflow="fold")
    for kind in _described():
        arguments = ", ".join(kind["kwargs_schema"].get("properties", {}))
        table.add_row(kind["name"], kind["description"], *([arguments] if verbose else []))
    print_table(table)


def _described() -> list[dict[str, Any]]:
    from verl_agent_env.envs.registry import default_registry

    registry = default_registry()
    described = []
    for name in registry.names():
        try:
            kind = registry.kind(name)
            described.append(
                {"name": name, "description": kind.description, "kwargs_schema": kind.arguments_schema()}
            )
        except ImportError as broken:
            described.append(
                {"name": name, "description": f"cannot be imported: {broken}", "kwargs_schema": {}}
            )
    return described
