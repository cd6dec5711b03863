"""``verl-agent-env status``: a cluster's workers as a table that refreshes."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from verl_agent_env.cli.api import call
from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.terminal import plain_console, print_table
from verl_agent_env.wire.catalogue_responses import ClusterResponse


@click.command()
@click.argument("url", default="http://127.0.0.1:8000")
@click.option(
    "--once",
    is_flag=True,
    help="Print the table once and exit, as it is done where the output is no terminal.",
)
@json_option("Print what the server says as JSON, once.")
@click.option("--interval-s", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between looks.")  # fmt: skip
@click.option(
    "--token", envvar="VERL_AGENT_ENV_TOKEN", default="", help="Bearer token, if the server asks for one."
)
def status(url: str, once: bool, as_json: bool, interval_s: float, token: str) -> None:
    """Show the nodes and workers of the server at URL."""
    if as_json:
        print_json(_ask(url, token))
        return
    console = plain_console()
    if once or not console.is_terminal:
        print_table(_table(url, _ask(url, token)))
        return
    last = _ask(url, token)
    with Live(_table(url, last), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval_s)
                try:
                    last = _look(url, token)
                    live.update(_table(url, last), refresh=True)
                except click.ClickException as away:
                    live.update(_table(url, last, trouble=away.message), refresh=True)
        except KeyboardInterrupt:
            return


def _ask(url: str, token: str) -> dict[str, Any]:
    """Return the state of the cluster; a server that hangs is waited for with a sign of life."""
    with plain_console(stderr=True).status(Text(f"Asking {url}")):
        return _look(url, token)


def _look(url: str, token: str) -> dict[str, Any]:
    """Return the state of the cluster from the server.

    Raises:
        click.ClickException: The server does not respond; the message gives the reason.
    """
    return call(url, "/api/cluster", ClusterResponse, token=token)


def _table(url: str, cluster: dict[str, Any], trouble: str = "") -> Table:
    workers = [(node["name"], worker) for node in cluster["nodes"] for worker in node["workers"]]
    table = Table(
        title=f"{url}, map version {cluster['map_version']}", caption=trouble or None, show_footer=True
    )
    table.add_column("node", footer=f"{len(cluster['nodes'])} nodes")
    table.add_column("worker", footer=f"{len(workers)} workers")
    table.add_column("address")
    table.add_column("pid", justify="right")
    table.add_column("state")
    table.add_column("slots", justify="right", footer=str(sum(worker["slots"] for _, worker in workers)))
    table.add_column("live", justify="right", footer=f"{sum(worker['live_envs'] for _, worker in workers):,}")
    table.add_column("up", justify="right")
    for node, worker in workers:
        table.add_row(
            node,
            worker["name"],
            worker["address"],
            str(worker["pid"]),
            worker["state"],
            str(worker["slots"]),
            f"{worker['live_envs']:,}",
            _duration(time.time() - worker["started_at"]),
        )
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
