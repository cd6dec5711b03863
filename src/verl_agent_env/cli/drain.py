"""``verl-agent-env drain``: empty a node, so that it can be stopped."""

from __future__ import annotations

import click

from verl_agent_env.cli.api import call


@click.command()
@click.argument("node")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Of the cluster.")
@click.option("--undo", is_flag=True, help="Have the node take environments again.")
@click.option(
    "--token", envvar="VERL_AGENT_ENV_TOKEN", default="", help="Bearer token, if the server asks for one."
)
def drain(node: str, url: str, undo: bool, token: str) -> None:
    """Hand over all environments of NODE to the other nodes; no call fails meanwhile."""
    answer = call(url, "/api/cluster/drain", {"node": node, "undo": undo}, token=token)
    click.echo(f"{node}: {answer['message']} ({answer['workers']} workers)")
