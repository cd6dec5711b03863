"""The tests themselves: none depends on how fast the machine is, on its ports, or on who started it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.children import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))
CLOCKS = {"monotonic", "perf_counter", "total_seconds", "process_time"}
BOUNDED = {
    "asyncio.timeout": 0,
    "asyncio.wait_for": 1,
    "join": 0,
    "result": 0,
    "subprocess.run": None,
    "communicate": 0,
}
"""Calls that end with an error in time, and the place of the time among their arguments."""
HTTP = {f"httpx.{name}" for name in ("get", "post", "put", "delete", "request", "Client", "AsyncClient")}
SHORTEST_S = 60


def name_of(call: ast.expr) -> str:
    """``a.b`` for ``a.b`` and for ``x.y.a.b``'s last two names."""
    return ".".join(ast.unparse(call).split(".")[-2:])


def wanted_to_end(tree: ast.AST) -> set[int]:
    """Lines on which a time-out is what the test is about."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With | ast.AsyncWith) and any(
            "raises" in (text := ast.unparse(item.context_expr)) and "Timeout" in text for item in node.items
        ):
            lines |= {inner.lineno for inner in ast.walk(node) if isinstance(inner, ast.expr)}
    return lines


def faults_of(text: str) -> Iterator[str]:
    """What a busy machine, another terminal or another user could make fail, with its line."""
    tree = ast.parse(text)
    wanted = wanted_to_end(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE):
            clock = any(isinstance(n, ast.Attribute) and n.attr in CLOCKS for n in ast.walk(node.left))
            if clock and any(isinstance(n, ast.Constant) for n in ast.walk(node.comparators[0])):
                yield f"{node.lineno}: an upper bound on a clock; wait with tests.waiting, or use tests.cpu"
        if not isinstance(node, ast.Call) or node.lineno in wanted:
            continue
        name = name_of(node.func)
        place = BOUNDED.get(name, BOUNDED.get(name.rpartition(".")[2], -1))
        limits = [keyword.value for keyword in node.keywords if keyword.arg in ("timeout", "timeout_s")]
        if place is not None and 0 <= place < len(node.args):
            limits.append(node.args[place])
        for limit in limits if place != -1 or name in HTTP else ():
            value = limit.value if isinstance(limit, ast.Constant) else None
            if isinstance(value, int | float) and value < SHORTEST_S:
                yield f"{node.lineno}: {name} ends after {value} s; see tests.waiting"
        if name in HTTP and not limits:
            yield f"{node.lineno}: {name} ends after httpx's five seconds; give it timeout=HANG_S"
        if name == "subprocess.run":
            yield f"{node.lineno}: tests.children.run ends what it starts, whatever happens"
        if name.endswith(".bind") and ast.unparse(node).endswith("(('127.0.0.1', 0))"):
            yield f"{node.lineno}: a port that somebody else may get; see tests.ports"


# What runs Docker or a script of its own in a string.
EXEMPT = {"tests/ports.py", "tests/cpu.py", "tests/waiting.py", "tests/messages/reading/timing.py"}


def test_no_test_depends_on_the_machine() -> None:
    read = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in FILES}
    assert [
        f"{path}:{fault}" for path, code in read.items() if path not in EXEMPT for fault in faults_of(code)
    ] == []


@pytest.mark.parametrize(
    "code",
    [
        "assert time.monotonic() - began < 5",
        "assert answer.elapsed.total_seconds() < PATIENCE_S + 3",
        "async with asyncio.timeout(5): ...",
        "await asyncio.wait_for(x, 5)",
        "thread.join(10)",
        "httpx.get(url)",
        "httpx.Client(timeout=20)",
        "subprocess.run(['true'], timeout=600)",
        "probe.bind(('127.0.0.1', 0))",
    ],
)
def test_what_would_depend_on_it_is_found(code: str) -> None:
    assert len(list(faults_of(code))) == 1


def test_what_does_not_depend_on_it_is_left_alone() -> None:
    code = (
        "assert time.monotonic() - began > 5\n"
        "httpx.get(url, timeout=HANG_S)\n"
        "', '.join(names)\n"
        "with pytest.raises(TimeoutError):\n"
        "    async with asyncio.timeout(0.05):\n"
        "        await x\n"
    )
    assert list(faults_of(code)) == []
