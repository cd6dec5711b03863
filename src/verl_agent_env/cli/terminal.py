"""Output for people: brackets in a text are no markup, and a table has a line for each row where a program reads it."""

from __future__ import annotations

import click
from rich.console import Console, RenderableType

_UNFOLDED = 10_000
"""Columns of output that no terminal shows: enough for any line."""


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that takes no text for markup or emoji: ``[fd00:100::1]`` is an address, ``[up]`` an action."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def print_table(table: RenderableType) -> None:
    """Print to the standard output; where that is no terminal, without folds and without blanks at the ends of lines."""
    console = plain_console()
    if console.is_terminal:
        console.print(table)
        return
    unfolded = plain_console(width=_UNFOLDED)
    with unfolded.capture() as printed:
        unfolded.print(table)
    click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
