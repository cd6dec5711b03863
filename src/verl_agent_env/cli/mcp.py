"""``verl-agent-env mcp``: an MCP server over standard input and output."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import os

import click

from verl_agent_env.config import LOG_LEVELS, ClusterSettings, ServerSettings, settings_from_environment


@click.command()
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="warning",
    show_default=True,
    help="What is written to standard error.",
)
def mcp(log_level: str) -> None:
    """Offer the environments as MCP tools, over standard input and output.

    For an MCP client that starts its servers: give it the command 'verl-agent-env mcp'. The environments live in this
    process and end with it. A running server offers the same tools at its address under /mcp, over streamable HTTP.
    """
    if importlib.util.find_spec("mcp") is None:
        raise click.ClickException(
            "MCP needs an extra that is not installed here; pip install 'verl-agent-env[mcp]' does."
        )
    try:
        settings = settings_from_environment(os.environ)
    except ValueError as unfit:
        raise click.UsageError(str(unfit)) from None
    from verl_agent_env.server.http.logs import configure_logging

    # To standard error: standard output is the client's.
    configure_logging(log_level, settings.log_format, settings.max_log_lines_per_s)
    # A process for one client belongs to no cluster, whatever the variables of this machine say.
    asyncio.run(_serve(dataclasses.replace(settings, cluster=ClusterSettings(), host="127.0.0.1")))


async def _serve(settings: ServerSettings) -> None:
    from mcp.server.stdio import stdio_server

    from verl_agent_env.server import create_app
    from verl_agent_env.server.api.mcp_tools import make_mcp_server

    app = create_app(settings)
    server = make_mcp_server(app.operations.call)
    async with app.router.lifespan_context(app), stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())
