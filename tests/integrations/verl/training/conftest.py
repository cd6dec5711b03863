"""What the tests that train share: the program of the examples."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import orjson
import pytest

from tests.children import ROOT


@pytest.fixture(scope="session")
def trainer() -> ModuleType:
    """``examples/verl/train.py``."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "examples/verl/train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def note_training() -> Callable[[Path, Sequence[float]], None]:
    """Writes what a training that is over leaves in a folder: success at every fourth step."""

    def note(folder: Path, success: Sequence[float]) -> None:
        folder.mkdir()
        (folder / "result.json").write_bytes(b"{}")
        lines = [
            orjson.dumps({"step": 4 * number, "data": {"val-aux/lake/success/mean@1": value}}) + b"\n"
            for number, value in enumerate(success)
        ]
        (folder / "log.jsonl").write_bytes(b"".join(lines))

    return note
