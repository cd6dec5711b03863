"""Whether the call at work may name commands for this machine to run, as definitions of MCP servers do."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

commands_check: ContextVar[Callable[[], str] | None] = ContextVar("commands_check", default=None)
"""Says why the call at work may not name commands, or an empty text; set for each request by a server, and not set
where a program makes environments itself."""


def reason_against_commands() -> str:
    """Why the call at work may not name commands; empty if nothing speaks against it."""
    check = commands_check.get()
    return "" if check is None else check()
