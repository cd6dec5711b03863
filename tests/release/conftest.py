"""A release as a user gets it: its files, and an environment of Python that has the wheel and nothing of this repository."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.children import ROOT, python, run
from tests.once import once

INSTALL_S = 1200.0
"""Seconds after which an installation from the package index is taken for a hang."""


class Dist(NamedTuple):
    """The two files of a release."""

    wheel: Path
    sdist: Path


class Installed(NamedTuple):
    """An environment of Python, and a folder outside the repository to work in."""

    folder: Path
    work: Path

    @property
    def command(self) -> str:
        """The path of ``verl-agent-env``."""
        return str(self.folder / "bin" / "verl-agent-env")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``verl-agent-env`` there."""
        return run(self.command, *arguments, cwd=self.work)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run Python code there, with every warning an error but those of compiling.

        What was installed was not compiled: the first import of a large package takes long, and warns of its syntax.
        """
        strict = ("-W", "error", "-W", "ignore::SyntaxWarning")
        program = str(self.folder / "bin" / "python")
        return run(program, *strict, "-c", code, cwd=self.work, timeout_s=INSTALL_S)


def install(folder: Path, requirement: str) -> Installed:
    """Make a new environment of Python with one requirement and what that needs."""
    made = python("-m", "venv", "--without-pip", str(folder))
    assert made.returncode == 0, made.stderr
    done = python(
        *("-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-compile"),
        *("--disable-pip-version-check", requirement),
        timeout_s=INSTALL_S,
    )
    assert done.returncode == 0, done.stderr
    work = folder / "work"
    work.mkdir()
    return Installed(folder, work)


@pytest.fixture(scope="session")
def dist(shared_folder: Path) -> Dist:
    """A release, built of this checkout as ``python -m build`` builds it: the wheel of the source archive."""

    def build(folder: Path) -> None:
        done = python("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
        assert done.returncode == 0, done.stdout + done.stderr

    folder = once(shared_folder, "dist", build)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Dist(wheel, sdist)


@pytest.fixture(scope="session")
def installed(shared_folder: Path, dist: Dist) -> Installed:
    """An environment with the wheel and no extra."""
    folder = once(shared_folder, "installed", lambda folder: install(folder, str(dist.wheel)))
    return Installed(folder, folder / "work")
