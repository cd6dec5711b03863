"""The files of ``deploy/`` and what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.children import ROOT
from tests.deploy.rendered import VALUE_SETS, Rendered, render


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder."""
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """``docker-compose.yml``, its variables as they are written."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What helm renders for each set of values."""
    folder = tmp_path_factory.mktemp("values")
    return {name: render(values, folder) for name, values in VALUE_SETS.items()}


@pytest.fixture(scope="session")
def clusters(texts: dict[str, str], deploy: Path) -> dict[str, Rendered]:
    """The same, read, and the kustomization's own file."""
    found = {name: Rendered.of(name, text) for name, text in texts.items()}
    own = (deploy / "kubernetes" / "cluster.yaml").read_text("utf-8")
    return {**found, "kustomization": Rendered.of("kustomization", own)}
