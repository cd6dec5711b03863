"""Texts of the code as Markdown."""

from __future__ import annotations

import re


def markdown(text: str) -> str:
    """Docstring markup as Markdown: literals in single backticks, roles as plain names."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def cell(text: str) -> str:
    """``text`` for a cell of a table: one line, no bare bars, no tags outside of code."""
    line = markdown(" ".join(text.split())).replace("|", "\\|")
    return "`".join(
        part if nth % 2 else part.replace("<", "&lt;") for nth, part in enumerate(line.split("`"))
    )
