"""Keeps packages from printing: a server's standard output is not theirs."""

from __future__ import annotations

import sys


def silence(package: str) -> None:
    """Have ``print`` do nothing in a package and all modules below it that are imported by now."""
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(f"{package}."):
            module.print = _print_nothing  # type: ignore[attr-defined]


def _print_nothing(*_: object, **__: object) -> None:
    """Take the place of ``print``."""
