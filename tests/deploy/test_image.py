"""The image installs what the lock files name, and they fit the package."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.children import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def locked(name: str) -> dict[str, str]:
    """Names of packages and their versions in a lock file."""
    text = (ROOT / "deploy" / "docker" / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==(\S+)", text, re.MULTILINE))


def test_every_requirement_is_locked_in_a_version_that_fits() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for requirements, name in (
        (project["project"]["dependencies"], "requirements.lock"),
        (project["build-system"]["requires"], "build-requirements.lock"),
    ):
        versions = locked(name)
        for requirement in map(Requirement, requirements):
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} is not in {name}: run 'make lock'"
            assert requirement.specifier.contains(version), f"{requirement}, not {version}: run 'make lock'"


@pytest.mark.parametrize("name", ["requirements.lock", "build-requirements.lock"])
def test_everything_is_installed_by_its_hash(name: str) -> None:
    text = (ROOT / "deploy" / "docker" / name).read_text("utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert f"--require-hashes -r {name}" in DOCKERFILE


def test_nothing_else_comes_from_the_network() -> None:
    for step in re.findall(r"pip (?:install|wheel)[^&]*", DOCKERFILE):
        assert "--require-hashes" in step or "--no-index" in step or "--no-build-isolation" in step, step


def test_the_image_says_what_it_is_and_runs_as_nobody_in_particular() -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", DOCKERFILE))
    assert labels == {
        *("title", "description", "licenses", "source", "documentation"),
        *("base.name", "version", "revision"),
    }
    stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["10001"]
    assert "HEALTHCHECK" in stage
    assert "STOPSIGNAL SIGTERM" in stage
