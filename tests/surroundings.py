"""What a test run inherits from whoever starts it, made the same for everybody."""

from __future__ import annotations

import os
import signal
from collections.abc import MutableMapping
from pathlib import Path

WIDTH = 200
"""Columns of every terminal: what a command prints on one line is not wrapped."""

_FOREIGN = (
    *("VERL_", "OPENAI", "ANTHROPIC", "PYTHONWARNINGS", "PYTHONDEVMODE", "SSL_CERT_FILE"),
    # Half of the time that it takes to collect the tests is spent on rewriting their assertions, where nothing is kept.
    "PYTHONDONTWRITEBYTECODE",
)
"""Beginnings of variables that would change what the code under test does or prints, or how long it takes."""
_FORCED = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Variables that make programs write as if to a terminal."""
AUTHORITIES = str(Path(__file__).parent)
"""Where clients look for certificate authorities, and find none: all servers are on this machine. Each client of httpx would
read all authorities of the world, which takes 36 ms."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def settle_variables(variables: MutableMapping[str, str]) -> None:
    """Take away what is not meant for tests, fix the width of the terminal, trust nobody; children inherit the rest."""
    for name in [name for name in variables if name.startswith(_FOREIGN) or name in _FORCED]:
        del variables[name]
    variables.update(COLUMNS=str(WIDTH), LINES="50", SSL_CERT_DIR=AUTHORITIES)
    for name in ("NO_PROXY", "no_proxy"):
        # A proxy of the person who runs the tests is not for servers of the tests.
        variables[name] = ",".join([*filter(None, [variables.get(name, "")]), *_LOOPBACK])


def handle_ignored_signals() -> None:
    """Handle the signals that this process was told to ignore, by doing nothing.

    ``nohup`` and a shell's ``&`` have a program ignore signals, and what is ignored stays so in its children, which
    could then not be ended. Handlers are not inherited: children begin with the system's defaults.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # SIGPIPE and SIGXFSZ are ignored by Python itself, which sets them to default in its children.
        if signal.getsignal(number) is signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, lambda *_: None)


def settle() -> None:
    """Both of it, in this process."""
    settle_variables(os.environ)
    handle_ignored_signals()
