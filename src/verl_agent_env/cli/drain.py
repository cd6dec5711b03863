"""``verl-agent-env drain``: empty a node, so that it can be stopped."""

from __future__ import annotations

import click
from rich.text import Text

from verl_agent_env.cli.api import call
from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.terminal import plain_console
from verl_agent_env.wire.catalogue_responses import DrainResponse


@click.command()
@click.argument("node")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Of the cluster.")
@click.option("--undo", is_flag=True, help="Have the node take environments again.")
@click.option(
    "--token", envvar="VERL_AGENT_ENV_TOKEN", default="", help="Bearer token, if the server asks for one."
)
@json_option("Print what the server answers as JSON.")
def drain(node: str, url: str, undo: bool, token: str, as_json: bool) -> None:
    """Hand over all environments of NODE to the other nodes; no call fails meanwhile."""
    with plain_console(stderr=True).status(Text(f"{node} hands over its environments")):
        answer = call(url, "/api/cluster/drain", DrainResponse, {"node": node, "undo": undo}, token=token)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{node}: {answer['message']} ({answer['workers']} workers)")
