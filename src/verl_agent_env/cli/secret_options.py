"""Removal of tokens and passwords from the command line, which ``ps`` shows to every account."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import MutableMapping, Sequence

from verl_agent_env.config import variable_of

_TOKEN = variable_of("token")
_VARIABLES = {
    "--auth-token": variable_of("auth_tokens"),
    "--token": _TOKEN,
    "--redis": variable_of("redis"),
    "--redis-log": variable_of("redis_logs"),
}
_REPEATED = ("--auth-token", "--redis-log")


def without_secrets(arguments: Sequence[str], environment: MutableMapping[str, str]) -> list[str] | None:
    """Move secrets from the arguments into the environment variables of the same options.

    Args:
        arguments: Arguments of the command line.
        environment: Environment of the process to be started; it receives the secrets.

    Returns:
        The arguments without secrets; ``None`` if they hold no secrets.
    """
    kept: list[str] = []
    found: dict[str, list[str]] = {}
    left = list(arguments)
    while left:
        word = left.pop(0)
        option, is_joined, value = word.partition("=")
        if word == "--" or option not in _VARIABLES or not (is_joined or left):
            kept += [word, *(left if word == "--" else ())]
            if word == "--":
                break
            continue
        value = value if is_joined else left.pop(0)
        if not value or (option == "--redis" and "@" not in value and "password=" not in value):
            kept.append(f"{option}={value}")
        else:
            found.setdefault(option, []).append(value)
    for option, values in found.items():
        # Of options that are given once, the last one counts.
        environment[_VARIABLES[option]] = json.dumps(values) if option in _REPEATED else values[-1]
    return kept if found else None


def hide_secrets() -> None:
    """Replace this process (``exec``) by one without secrets in its command line, if there are any."""
    given = sys.argv[1:]
    first = sys.orig_argv[: len(sys.orig_argv) - len(given)]
    if [*first, *given] != sys.orig_argv:
        # Called from a program with a command line of its own: nobody sees these arguments.
        return
    kept = without_secrets(given, os.environ)
    if kept is not None:
        os.execv(sys.executable, [*first, *kept])  # noqa: S606
