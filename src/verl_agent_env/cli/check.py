"""``verl-agent-env check-env``."""

from __future__ import annotations

import click


@click.command("check-env")
def check_env() -> None:
    """Check."""
