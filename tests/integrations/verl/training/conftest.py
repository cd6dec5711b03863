"""What the tests that train share: the program of the examples."""

from __future__ import annotations

import importlib.util
from types import ModuleType

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
