"""Option ``--json`` of the commands whose output scripts read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import orjson

from verl_agent_env.errors import VerlAgentEnvError

F = TypeVar("F", bound=Callable[..., Any])


def json_option(text: str) -> Callable[[F], F]:
    """Return the decorator that gives a command the option ``--json``, as its argument ``as_json``; ``text`` is its help."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def print_error(error: click.ClickException | VerlAgentEnvError) -> None:
    """Print to the standard output why a command failed: an object whose ``error`` has ``code`` and ``detail``."""
    if isinstance(error, VerlAgentEnvError):
        code, detail = error.code, error.detail
    else:
        code = "usage" if isinstance(error, click.UsageError) else "failed"
        detail = error.format_message()
    print_json({"error": {"code": code, "detail": detail}})


def print_json(value: Any) -> None:
    """Print a value to the standard output as indented JSON, dataclasses as objects."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
