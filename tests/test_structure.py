"""Counts of the structure: how many packages there are on how many layers, and how often a verb is defined.

``python -m tests.test_structure`` prints them, of this tree or of the one that it is given.
"""

from __future__ import annotations

import ast
import collections
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.test_docs import ROOT
from tests.test_words import QUESTIONS

_FOLDERS = ("server", "engine", "cluster", "server/http", "server/cluster", "server/api")


class Structure(NamedTuple):
    """The modules and packages of one package, and which of them import which."""

    arrows: Mapping[str, frozenset[str]]

    @property
    def num_arrows(self) -> int:
        """Number of pairs of which one imports the other."""
        return sum(map(len, self.arrows.values()))

    @property
    def layers(self) -> int:
        """Length of the longest chain of imports."""
        return max(map(self._depth, self.arrows))

    def _depth(self, name: str) -> int:
        return 1 + max(map(self._depth, self.arrows[name]), default=0)


@cache
def modules(root: Path) -> dict[Path, ast.Module]:
    """The parsed modules, by their paths below the package."""
    package = root / "src" / "verl_agent_env"
    return {
        path.relative_to(package): ast.parse(path.read_text("utf-8"))
        for path in sorted(package.rglob("*.py"))
    }


def structure_of(folder: str, root: Path = ROOT) -> Structure:
    """Find out what imports what inside a package, such as ``server`` or ``engine``."""
    inside = {path: tree for path, tree in modules(root).items() if path.is_relative_to(folder)}
    depth = len(Path(folder).parts)
    names = {path.parts[depth].removesuffix(".py") for path in inside} - {"__init__"}
    prefix = ["verl_agent_env", *Path(folder).parts]
    arrows: dict[str, set[str]] = {name: set() for name in names}
    for path, tree in inside.items():
        own = path.parts[depth].removesuffix(".py")
        for imported in _imported(tree):
            parts = imported.split(".")
            if own in names and parts[: len(prefix)] == prefix and len(parts) > len(prefix):
                arrows[own] |= {parts[len(prefix)]} & names - {own}
    return Structure({name: frozenset(arrows[name]) for name in sorted(names)})


def _imported(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def definitions(name: str, root: Path = ROOT) -> list[str]:
    """Find the functions and methods of a name."""
    return [
        f"{path}:{node.lineno}"
        for path, tree in modules(root).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]


@pytest.mark.parametrize(("folder", "rooms", "layers"), [("server", 6, 5), ("engine", 10, 6)])
def test_a_package_has_few_parts_on_few_layers(folder: str, rooms: int, layers: int) -> None:
    structure = structure_of(folder)
    assert len(structure.arrows) <= rooms
    assert structure.layers <= layers


def test_a_step_is_defined_where_somebody_calls_it_from_outside() -> None:
    # Gymnasium's interface, the clients', the host's and its calls', those of trainers and of OpenEnv.
    assert len(definitions("step")) <= 16


def counts(root: Path) -> list[str]:
    """Count what the redesign set bars for, in the tree at ``root``."""
    nodes = [node for tree in modules(root).values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = collections.Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    documented = [node for node in nodes if isinstance(node, ast.Module | ast.ClassDef)] + functions
    openings = [(ast.get_docstring(node) or " ").split(maxsplit=1)[:1] for node in documented]
    sizes = [path.read_text("utf-8").count("\n") for path in (root / "src" / "verl_agent_env").rglob("*.py")]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60]
    folders = [folder for folder in _FOLDERS if (root / "src" / "verl_agent_env" / folder).is_dir()]
    return [
        f"src: {len(sizes)} files, {sum(sizes)} lines, {sum(size > 500 for size in sizes)} of more than 500",
        f"functions of more than 60 lines: {len(long)}",
        f"step: defined {len(definitions('step', root))} times; reset: {len(definitions('reset', root))}",
        f"class names defined twice: {sum(count > 1 for count in classes.values())}",
        f"functions named *_now: {sum(node.name.endswith('_now') for node in functions)}",
        f"docstrings that open with a question: {sum({*word} <= QUESTIONS and word != [] for word in openings)}",
        *(
            f"{folder}: {len(found.arrows)} parts, {found.layers} layers, {found.num_arrows} arrows"
            for folder in folders
            for found in [structure_of(folder, root)]
        ),
    ]


if __name__ == "__main__":
    sys.stdout.write("\n".join(counts(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)) + "\n")
