"""``verl-agent-env completion``: the script with which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_PROGRAM = "verl-agent-env"
_VARIABLE = "_VERL_AGENT_ENV_COMPLETE"
_HELP = {
    "bash": 'eval "$(verl-agent-env completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(verl-agent-env completion zsh)"     # in ~/.zshrc',
    "fish": "verl-agent-env completion fish > ~/.config/fish/completions/verl-agent-env.fish",
}


@click.command(epilog="\b\n" + "\n".join(_HELP.values()))
@click.argument("shell", type=click.Choice(sorted(_HELP)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands and options."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}.")
    click.echo(found(context.find_root().command, {}, _PROGRAM, _VARIABLE).source())
