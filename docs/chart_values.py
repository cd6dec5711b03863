"""Makes the table of the Helm chart's values in ``docs/kubernetes.md``.

What each value is for stands above it in ``deploy/helm/values.yaml``, and nowhere else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from docs.markdown import cell

HERE = Path(__file__).parent
PAGE = HERE / "kubernetes.md"
VALUES = HERE.parent / "deploy" / "helm" / "values.yaml"

_KEY = re.compile(r"( *)(\w+):")
_TABLE = re.compile(
    r"(?<=^\| Value \| Default \| What it is for \|\n\|---\|---\|---\|\n)(?:\|.*\n)*", re.MULTILINE
)


def described_values(text: str) -> dict[str, str]:
    """Find the comment above each value, by the value's path, as ``nodes.replicas``.

    Comments above the first key, which a blank line follows, belong to no value.
    """
    found: dict[str, str] = {}
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        key = _KEY.match(line)
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        if key is not None:
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                found[".".join(path)] = " ".join(comment)
        comment = []
    return found


def value_at(values: dict[str, Any], path: str) -> Any:
    """Return the value at a path."""
    found: Any = values
    for name in path.split("."):
        found = found[name]
    return found


def table() -> str:
    """The rows of the table."""
    text = VALUES.read_text("utf-8")
    values = yaml.safe_load(text)
    return "".join(
        f"| `{path}` | `{json.dumps(value_at(values, path))}` | {cell(sentence)} |\n"
        for path, sentence in described_values(text).items()
    )


def page() -> str:
    """The page, with a fresh table."""
    return _TABLE.sub(lambda _: table(), PAGE.read_text("utf-8"))


def write() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
