"""``verl-agent-env``: serve environments, play them, check them, list them.

Every option can also be given as a variable, ``VERL_AGENT_ENV_`` and its name: ``VERL_AGENT_ENV_PORT=9000``.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from verl_agent_env import __version__
from verl_agent_env.cli.json_output import print_error
from verl_agent_env.cli.secret_options import hide_secrets
from verl_agent_env.config import ENVIRONMENT_PREFIX
from verl_agent_env.errors import VerlAgentEnvError

_COMMANDS = {
    "serve": "serve.serve",
    "cluster": "cluster.cluster",
    "nginx-config": "nginx_config.nginx_config_command",
    "status": "status.status",
    "drain": "drain.drain",
    "doctor": "doctor.doctor",
    "completion": "completion.completion",
    "play": "play.play",
    "mcp": "mcp.mcp",
    "eval": "eval.eval_command",
    "curate": "curate.curate_command",
    "check-env": "check.check_env",
    "list": "listing.list_environments",
    "envs": "envs.envs",
    "wrap": "wrap.wrap",
}
"""Module and attribute of each command, by its name."""


_AS_JSON = f"{__name__}.as_json"


class _LazyGroup(click.Group):
    """Group that imports a command only when it is used: a server starts without the imports of curation."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether the command is to print JSON, then parse."""
        ctx.meta[_AS_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with ``--json``, its error is printed as JSON as well."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, VerlAgentEnvError) as error:
            if ctx.meta[_AS_JSON]:
                print_error(error)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name; ``None`` if there is none."""
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(".")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={
        "auto_envvar_prefix": ENVIRONMENT_PREFIX.rstrip("_"),
        "help_option_names": ["-h", "--help"],
    },
    epilog="Options can also be given as variables: VERL_AGENT_ENV_PORT=9000 for 'serve --port 9000'.",
)
@click.version_option(__version__, prog_name="verl-agent-env")
def cli() -> None:
    """Environments for LLM agents: serve them over HTTP, play them here, check your own."""


def main() -> None:
    """Run the command line; an error of the user is one sentence and exit code 1."""
    hide_secrets()
    if sys.stdout is not None:
        # What the encoding of the standard output lacks is written as on the standard error, as \u2192.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        cli()
    except VerlAgentEnvError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except MemoryError:
        click.echo("Error: There is not enough memory (ulimit -v, or the limit of the container).", err=True)
        sys.exit(1)
    except OSError as fault:
        # Such as a full disk under the standard output, which Python would flush again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        click.echo(f"Error: {fault}", err=True)
        sys.exit(1)
