"""The sample third-party package, installed for real."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.children import forked_python, python
from tests.once import once

SOURCE = Path(__file__).parents[1] / "packages" / "acme_envs"


@pytest.fixture(scope="session")
def acme_site(shared_folder: Path) -> Path:
    """A folder of installed packages that holds acme-envs, as pip installs it."""

    def install(folder: Path) -> None:
        # Built from a copy: a build leaves files behind.
        source = shutil.copytree(SOURCE, folder / "source")
        done = python(
            *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *(
                "--no-deps",
                "--no-build-isolation",
                "--no-index",
                "--target",
                str(folder / "site"),
                str(source),
            ),
        )
        assert done.returncode == 0, done.stderr

    return once(shared_folder, "acme", install) / "site"


@pytest.fixture
def run_with_acme(acme_site: Path) -> Callable[[str], str]:
    """Runs Python code in a process that has acme-envs installed; gives what it printed."""

    def run(code: str) -> str:
        done = forked_python("-W", "error", "-c", code, variables={"PYTHONPATH": str(acme_site)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def acme_importable(acme_site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes acme-envs importable in this process; its entry points stay unknown, they are read once."""
    monkeypatch.syspath_prepend(str(acme_site))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_envs"]:
        del sys.modules[name]
