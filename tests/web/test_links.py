"""A link brings anybody to the same state, or is said to be damaged; what it holds may come from anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from tests.web.scripts import evaluated, needs_node

pytestmark = needs_node
READ = """(address) => {
  const [rest, query] = address.split(/\\?(.*)/s);
  try { return planIn({ rest, query: new URLSearchParams(query) }); } catch (error) { return error.name; }
}"""


def plans(folder: Path, *addresses: str) -> list[Any]:
    asked = f"{orjson.dumps(addresses).decode()}.map({READ})"
    found: list[Any] = evaluated(folder, ("links",), "planIn", asked)
    return found


def moves(folder: Path, *actions: Any) -> list[Any]:
    found: list[Any] = evaluated(
        folder, ("links",), "moveOf", f"{orjson.dumps(actions).decode()}.map(moveOf)"
    )
    return found


def call(name: Any, arguments: Any) -> dict[str, Any]:
    return {"content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    plan = {
        "name": "verl_env/sokoban-v0",
        "args": {"text": "a&b=#'{\"é😀\n%E0", "__proto__": 1},
        "seed": 2**53 - 1,
        "moves": [
            {"tool": "up", "args": {}},
            {"tool": "say", "args": {"x": "}{'"}},
            {"text": "'{<think>&do=x"},
        ],
    }
    written = orjson.dumps(orjson.dumps(plan).decode()).decode()
    address = evaluated(tmp_path, ("links",), "addressOf", f"addressOf(JSON.parse({written}))")
    assert plans(tmp_path, address.removeprefix("play/")) == [plan]


@pytest.mark.parametrize(
    "query",
    [
        *(f"seed={seed}" for seed in ("x", "", "-1", "1.5", "1e3", "9007199254740993", "Infinity")),
        *(f"args={quote(args)}" for args in ("null", "5", "[1]", '"x"', "{no", "")),
        *(f"do={quote(move)}" for move in ('x{"a":', "x{}{", "x{}]")),
    ],
)
def test_a_damaged_link_is_refused_and_not_read_as_another_state(tmp_path: Path, query: str) -> None:
    (found,) = plans(tmp_path, f"verl_env/sokoban-v0?{query}")
    assert found in ("SyntaxError", "TypeError", "RangeError")


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    found = plans(tmp_path, "../cluster/events", "a/../../x", "./a", "a//b", "")
    assert found == ["RangeError"] * 4 + [None]


def test_an_action_that_a_link_cannot_hold_has_no_move(tmp_path: Path) -> None:
    odd: list[Any] = [
        call("up", "{"),
        call("up", "null"),
        call("up", "[1]"),
        call("up", 5),
        call("a{b", "{}"),
        call("'x", "{}"),
    ]
    odd += [
        call(None, "{}"),
        call("", "{}"),
        {"tool_calls": [None]},
        {"tool_calls": "x"},
        {"content": ["x"]},
        5,
        None,
    ]
    assert moves(tmp_path, *odd) == [None] * len(odd)
    good = ["text", {"content": "text", "tool_calls": None}, call("up", ""), call("say", '{"a": 1}')]
    assert moves(tmp_path, *good) == [
        {"text": "text"},
        {"text": "text"},
        {"tool": "up", "args": {}},
        {"tool": "say", "args": {"a": 1}},
    ]
