"""The files of the web page: small, whole, from nowhere else, and understood by an engine of JavaScript."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import orjson
import pytest

from tests.children import ROOT, run

FOLDER = ROOT / "src/verl_agent_env/web"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
OWN = [path for path in FILES if path.parent == FOLDER]
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
MAX_GZIP_BYTES = 80_000
MAX_LINE = 120
NODE, TSC = shutil.which("node"), shutil.which("tsc")

_REFERENCE = re.compile(
    r"""(?:\bfrom\s*|\bimport\s*\(?\s*|\bhref=|\bsrc=|url\()["']?([\w./-]+\.(?:js|css|svg|html))(?![\w.])["']?"""
)
_ADDRESS = re.compile(r"(?<!pkg:)(?:https?:)?//[\w-]+\.[\w.-]+")
_KNOWN_ADDRESSES = {"http://www.w3.org"}
"""Names of XML languages, which are never fetched."""


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def references_of(path: Path) -> set[str]:
    return {str(found) for found in _REFERENCE.findall(path.read_text())}


def test_all_of_it_is_at_most_80_kilobytes_compressed() -> None:
    loaded = [path for path in FILES if path.suffix != ".LICENSE"]
    sizes = {name_of(path): len(gzip.compress(path.read_bytes())) for path in loaded}
    assert sum(sizes.values()) <= MAX_GZIP_BYTES, sizes


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".LICENSE"], ids=name_of)
def test_whatever_a_file_refers_to_is_there(path: Path) -> None:
    for reference in references_of(path):
        assert not reference.startswith("/"), "an absolute path leads out of the folder that a proxy serves"
        assert (path.parent / reference).is_file(), reference


def test_every_file_is_reached_from_the_page() -> None:
    reached, waiting = set(), [FOLDER / "index.html"]
    while waiting:
        path = waiting.pop().resolve()
        if path not in reached:
            reached.add(path)
            waiting += [path.parent / reference for reference in references_of(path)]
    left = [name_of(path) for path in FILES if path.suffix != ".LICENSE" and path not in reached]
    assert left == []


def test_every_script_is_fetched_at_once_and_not_when_another_one_was_read() -> None:
    named = references_of(FOLDER / "index.html")
    assert {name_of(path) for path in SCRIPTS} <= named


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".LICENSE"], ids=name_of)
def test_nothing_is_named_that_is_elsewhere(path: Path) -> None:
    found = set(_ADDRESS.findall(path.read_text()))
    allowed = (
        _KNOWN_ADDRESSES if path.parent == FOLDER else found & {"http://www.w3.org", "https://preactjs.com"}
    )
    assert found <= allowed


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_nothing_is_written_that_the_policy_refuses_or_that_runs_what_others_wrote(path: Path) -> None:
    text = path.read_text()
    for refused in (" style=", "innerHTML", "eval(", "new Function", "javascript:", " onclick="):
        assert refused not in text
    assert re.search(r"<script(?![^>]*\bsrc=)", text) is None


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_lines_can_be_read(path: Path) -> None:
    assert max(map(len, path.read_text().splitlines())) <= MAX_LINE


def test_every_vendored_library_has_its_licence() -> None:
    licences = " ".join(path.read_text() for path in FILES if path.suffix == ".LICENSE")
    assert len([path for path in FILES if path.suffix == ".LICENSE"]) == 4
    assert "MIT" in licences
    assert "Apache License" in licences


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_node_understands_every_script(tmp_path: Path) -> None:
    assert NODE is not None
    for path in SCRIPTS:
        # Only in a file of this name does node expect a module.
        module = tmp_path / f"{path.stem}.mjs"
        module.write_bytes(path.read_bytes())
        done = run(NODE, "--check", str(module))
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(TSC is None, reason="tsc is not installed: npm install --global typescript")
def test_types_are_right(tmp_path: Path) -> None:
    options = {
        "allowJs": True,
        "noEmit": True,
        "strict": True,
        "target": "es2023",
        "module": "esnext",
        "types": [],
    }
    libraries = {"moduleResolution": "bundler", "lib": ["es2023", "dom", "dom.iterable"]}
    config = {
        "compilerOptions": {**options, **libraries},
        "files": [str(path) for path in OWN if path.suffix == ".js"],
    }
    (tmp_path / "tsconfig.json").write_bytes(orjson.dumps(config))
    assert TSC is not None
    done = run(TSC, "--project", str(tmp_path))
    assert done.returncode == 0, done.stdout


def test_types_of_every_own_script_are_checked() -> None:
    for path in OWN:
        if path.suffix == ".js":
            assert path.read_text().startswith("// @ts-check\n"), path.name
