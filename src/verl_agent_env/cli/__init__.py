"""``verl-agent-env``: serve environments, play them, check them, list them.

Every option can also be given as a variable, ``VERL_AGENT_ENV_`` and its name: ``VERL_AGENT_ENV_PORT=9000``.
"""

from __future__ import annotations

import sys

import click

from verl_agent_env import __version__
from verl_agent_env.cli.check import check_env
from verl_agent_env.cli.cluster import cluster
from verl_agent_env.cli.curate import curate_command
from verl_agent_env.cli.drain import drain
from verl_agent_env.cli.eval import eval_command
from verl_agent_env.cli.listing import list_environments
from verl_agent_env.cli.mcp import mcp
from verl_agent_env.cli.nginx_config import nginx_config_command
from verl_agent_env.cli.play import play
from verl_agent_env.cli.serve import serve
from verl_agent_env.cli.status import status
from verl_agent_env.config import ENVIRONMENT_PREFIX
from verl_agent_env.errors import VerlAgentEnvError


@click.group(
    context_settings={
        "auto_envvar_prefix": ENVIRONMENT_PREFIX.rstrip("_"),
        "help_option_names": ["-h", "--help"],
    },
    epilog="Options can also be given as variables: VERL_AGENT_ENV_PORT=9000 for 'serve --port 9000'.",
)
@click.version_option(__version__, prog_name="verl-agent-env")
def cli() -> None:
    """Environments for LLM agents: serve them over HTTP, play them here, check your own."""


cli.add_command(serve)
cli.add_command(cluster)
cli.add_command(nginx_config_command)
cli.add_command(status)
cli.add_command(drain)
cli.add_command(play)
cli.add_command(mcp)
cli.add_command(eval_command)
cli.add_command(curate_command)
cli.add_command(check_env)
cli.add_command(list_environments)


def main() -> None:
    """Run the command line; an error that a user can mend is one sentence and exit code 1."""
    try:
        cli()
    except VerlAgentEnvError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
