"""Check whether a call may name commands for this machine to run, as definitions of MCP servers do."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

commands_check: ContextVar[Callable[[], str] | None] = ContextVar("commands_check", default=None)
"""Returns why the current call may not name commands, or an empty text. A server sets it for each request; it is not set in
a program that makes environments itself."""


def reason_against_commands() -> str:
    """Return why the current call may not name commands; empty if it may."""
    check = commands_check.get()
    return "" if check is None else check()
