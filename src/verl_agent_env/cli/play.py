"""``verl-agent-env play``."""

from __future__ import annotations

import click


@click.command()
def play() -> None:
    """Play."""
