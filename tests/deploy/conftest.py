"""The files of ``deploy/`` and what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.children import ROOT


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder."""
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """``docker-compose.yml``, its variables as they are written."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return found
