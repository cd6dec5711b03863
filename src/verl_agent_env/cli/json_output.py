"""Option ``--json`` of the commands whose output scripts read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import orjson

F = TypeVar("F", bound=Callable[..., Any])


def json_option(text: str) -> Callable[[F], F]:
    """Return the decorator that gives a command the option ``--json``, as its argument ``as_json``; ``text`` is its help."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def print_json(value: Any) -> None:
    """Print a value to the standard output as indented JSON, dataclasses as objects."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
