"""Runs modules of the page that need no browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.children import ROOT, run

NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


def evaluated(folder: Path, modules: tuple[str, ...], imported: str, expression: str) -> Any:
    """Return what an expression gives, as JSON has it.

    Args:
        folder: An empty one, for copies of the modules.
        modules: Names of the first module and of those that it imports.
        imported: What is imported of the first one.
        expression: Of JavaScript.
    """
    for name in modules:
        (folder / f"{name}.js").write_bytes((ROOT / f"src/verl_agent_env/web/{name}.js").read_bytes())
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "main.js").write_text(
        f"import {{ {imported} }} from './{modules[0]}.js';\n"
        f"process.stdout.write(JSON.stringify({expression}));\n"
    )
    assert NODE is not None
    done = run(NODE, str(folder / "main.js"))
    assert done.returncode == 0, done.stderr
    return orjson.loads(done.stdout)
