"""The words of the project: the glossary's, one for one thing, in sentences that say what a thing does."""

from __future__ import annotations

import ast
import collections
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_docs import ARCHITECTURE, PAGES, ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))
FORMER = {"moved.py", "renamed_hooks.py"}
"""Modules that keep former names usable for one version."""
QUESTIONS = {"As", "How", "See", "That", "What", "When", "Where", "Whether", "Which", "Who", "Whose", "Why"}
"""A docstring that opens with one of them describes its subject without naming it."""


def glossary() -> dict[str, list[str]]:
    """Terms of the glossary, each with the words that it replaced."""
    text = ARCHITECTURE.read_text("utf-8")
    section = text[text.index("## Glossary") :]
    rows = re.findall(r"^\| (\*\*.+) \| (.+) \| ?(.*?) ?\|$", section, re.MULTILINE)
    return {
        term: [word.strip(" `") for word in retired.split(",") if word.strip()] for term, _, retired in rows
    }


RETIRED = sorted({word for words in glossary().values() for word in words})


@cache
def spoken() -> list[tuple[str, str]]:
    """Everything that is read: the documents without the glossary, and the source, each with its name."""
    text = ARCHITECTURE.read_text("utf-8")
    pages = [
        (page.name, page.read_text("utf-8"))
        for page in PAGES
        if page != ARCHITECTURE and page.name != "CHANGELOG.md"
    ]
    pages.append((ARCHITECTURE.name, text[: text.index("## Glossary")]))
    return pages + [
        (str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in SOURCES if path.name not in FORMER
    ]


@cache
def modules() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text("utf-8"))) for path in SOURCES]


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """What the tests look at, found in one walk: there are a million nodes."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Call)
    return [
        (path, node) for path, module in modules() for node in ast.walk(module) if isinstance(node, kinds)
    ]


def test_the_glossary_is_there() -> None:
    assert len(glossary()) >= 25
    assert len(RETIRED) >= 25


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_is_gone(word: str) -> None:
    # Identifiers count as well: `take_over` is one of three words, `LaneState` begins with one.
    pattern = re.compile(rf"(?<![A-Za-z]){re.escape(word)}(?![a-z])", re.IGNORECASE if word.islower() else 0)
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
        for name, text in spoken()
        for match in pattern.finditer(text)
        # An environment's former hook is given by this call.
        if not text[: match.start()].endswith('former_name("')
        and "former_name(" not in text[match.end() :].split("\n", 1)[0]
    ]
    assert found == []


def test_no_class_has_the_name_of_another() -> None:
    places = collections.defaultdict(list)
    for path, node in nodes():
        if isinstance(node, ast.ClassDef):
            places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_function_is_the_immediate_twin_of_another() -> None:
    named = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.endswith("_now")
    ]
    assert named == []


def test_docstrings_begin_with_what_is_done_or_with_what_it_is() -> None:
    opened = []
    for path, node in nodes():
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].strip(".,:;") in QUESTIONS:
                opened.append(f"{path.relative_to(ROOT)}: {' '.join(words[:8])}")
    assert opened == []


LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOGGED = ("cluster", "engine", "server", "background.py")
"""Parts whose log operators read."""
VAGUE = {"A", "An", "The", "It", "They", "This", "Somebody", "Nobody", "What", "Whatever", "Who", "Whoever"}
"""An event that opens with one of them does not begin with what it is about."""
FIGURATIVE = (
    "did not come back",
    "leads nowhere",
    "stands",
    "lives",
    "is told",
    "taken away",
    "given up",
    "goes on",
)


def events() -> Iterator[tuple[str, str]]:
    """The messages of all log lines of the server, each with its place."""
    for path, node in nodes():
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "logger"
            and path.relative_to(ROOT / "src" / "verl_agent_env").parts[0] in LOGGED
        ):
            message = node.args[0]
            assert isinstance(message, ast.Constant), f"{path.name}:{node.lineno} is no constant"
            yield f"{path.relative_to(ROOT)}:{node.lineno}", str(message.value)


def test_a_log_event_names_what_it_is_about_and_what_happened() -> None:
    told = list(events())
    assert len(told) >= 40
    assert [
        (place, event)
        for place, event in told
        if event.split()[0].capitalize() in VAGUE
        or len(event.split()) < 2
        or event.endswith(".")
        or any(re.search(rf"\b{phrase}\b", event) for phrase in FIGURATIVE)
    ] == []


def test_a_log_event_is_found_in_one_file() -> None:
    files = collections.defaultdict(set)
    for place, event in events():
        files[event].add(place.partition(":")[0])
    assert {event: places for event, places in files.items() if len(places) > 1} == {}
