"""The files of a release hold what belongs there, say what they are, and nothing else."""

from __future__ import annotations

import email
import email.message
import re
import tarfile
import tomllib
import zipfile

import pytest

import verl_agent_env
from tests.children import ROOT, python
from tests.release.conftest import Dist

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
SOURCES = {
    str(path.relative_to(ROOT / "src"))
    for path in (ROOT / "src" / "verl_agent_env").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


@pytest.fixture(scope="module")
def metadata(dist: Dist) -> email.message.Message:
    with zipfile.ZipFile(dist.wheel) as wheel:
        (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(path))


def described(metadata: email.message.Message) -> str:
    """The long description, which package indexes show."""
    body = metadata.get_payload(decode=True)
    assert isinstance(body, bytes)
    return body.decode()


def test_both_files_pass_the_check_of_the_package_index(dist: Dist) -> None:
    checked = python("-m", "twine", "check", "--strict", str(dist.wheel), str(dist.sdist))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_wheel_holds_the_package_and_nothing_else(dist: Dist) -> None:
    with zipfile.ZipFile(dist.wheel) as wheel:
        names = set(wheel.namelist())
    assert {name for name in names if ".dist-info/" not in name} == SOURCES
    assert "verl_agent_env/py.typed" in names


def test_the_sdist_holds_what_the_wheel_is_made_of(dist: Dist) -> None:
    with tarfile.open(dist.sdist) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    beside = {name for name in names if not name.startswith("src/")}
    assert {name.removeprefix("src/") for name in names - beside} == SOURCES
    assert beside == {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}


def test_the_version_is_said_in_one_place(dist: Dist, metadata: email.message.Message) -> None:
    assert metadata["Version"] == verl_agent_env.__version__
    assert dist.wheel.name.startswith(f"verl_agent_env-{verl_agent_env.__version__}-py3-none-any")
    assert "version" in PROJECT["dynamic"]


def test_every_licence_is_inside(dist: Dist, metadata: email.message.Message) -> None:
    vendored = [path for path in SOURCES if path.endswith(".LICENSE")]
    assert len(vendored) == 4
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT"
    licences = metadata.get_all("License-File", [])
    assert set(licences) == {"LICENSE", *(f"src/{path}" for path in vendored)}
    with zipfile.ZipFile(dist.wheel) as wheel:
        (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
        for licence in licences:
            assert wheel.read(f"{info}/licenses/{licence}") == (ROOT / licence).read_bytes()


def test_links_of_the_description_lead_to_the_repository_at_this_version(
    metadata: email.message.Message,
) -> None:
    text = described(metadata)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []
    at = f"{verl_agent_env.__version__}/"
    of_files = [target for target in targets if "/blob/" in target or "raw." in target]
    assert len(of_files) > 20
    for target in of_files:
        root, _, path = target.partition(f"/v{at}")
        assert root in (f"{REPOSITORY}/blob", REPOSITORY.replace("github.com", "raw.githubusercontent.com"))
        assert (ROOT / path.partition("#")[0]).exists(), target
    # What pip and the index show: GitHub's pages of files for reading, its raw files for pictures.
    assert all("raw." in target for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", text))


def test_every_link_of_the_project_names_one_repository() -> None:
    owner, name = REPOSITORY.removeprefix("https://github.com/").split("/")
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert set(re.findall(r"https://(?:raw\.)?github(?:usercontent)?\.com/([\w-]+/[\w-]+)", text)) == {
        f"{owner}/{name}"
    }
    assert PROJECT["urls"]["Documentation"] == f"https://{owner}.github.io/{name}/"


def test_every_extra_is_documented() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs" / "install.md").read_text("utf-8"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(named) == sorted(PROJECT["optional-dependencies"]), "the table of docs/install.md"
