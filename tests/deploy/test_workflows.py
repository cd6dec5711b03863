"""The workflows: what a release waits for, what each job may do, and that nothing they run can change under its name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.release.check_release import faults_of, version_of
from tests.children import ROOT, python, run

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
REPOSITORY = "https://github.com/verl-agent-env/verl-agent-env"

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def workflow(path: Path) -> dict[str, Any]:
    """As GitHub reads it: ``on`` is no truth value."""
    found: dict[str, Any] = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # noqa: S506
    return found


def test_workflows_fit_their_schema() -> None:
    done = python(
        "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)
    )
    assert done.returncode == 0, done.stdout
    done = python("-m", "check_jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    assert done.returncode == 0, done.stdout


@each_workflow
def test_every_action_is_named_by_its_commit_and_its_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text("utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@each_workflow
def test_a_job_may_only_read_unless_it_says_more(path: Path) -> None:
    found = workflow(path)
    assert found["permissions"] == {"contents": "read"}
    for name, job in found["jobs"].items():
        assert "timeout-minutes" in job, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] == "false", name
            # What somebody named a branch must not be run: values come through variables.
            assert "${{" not in step.get("run", ""), name


@each_workflow
def test_named_files_and_targets_exist(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    text = path.read_text("utf-8")
    assert set(re.findall(r"make ([a-z-]+)$", text, re.MULTILINE)) <= set(targets)
    for script in re.findall(r"(?:bash|python) ([.\w][\w./-]*/[\w.-]+)", text):
        assert (ROOT / script).exists(), script


def test_nothing_is_published_before_the_tests_and_without_a_tag() -> None:
    jobs = workflow(FOLDER / "release.yml")["jobs"]
    assert set(jobs["publish"]["needs"]) == {"check", "test", "build", "image"}
    assert jobs["publish"]["if"] == "github.ref_type == 'tag'"
    assert "test" in jobs["image"]["needs"]
    (push,) = (
        step["with"]["push"] for step in jobs["image"]["steps"] if "build-push" in step.get("uses", "")
    )
    assert push == "${{ github.ref_type == 'tag' }}"
    with_tokens = {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})}
    assert with_tokens == {"publish", "image"}
    assert jobs["publish"]["environment"]["name"] == "pypi"
    tests = [step.get("run") for step in jobs["test"]["steps"]]
    assert {"bash .ci/run", "make release-test"} <= set(tests)


# --- what is looked at before anything is published ---------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the check reads, with a dated changelog."""
    for name in ("pyproject.toml", "Dockerfile", "mkdocs.yml", "src/verl_agent_env/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"## [{version_of(ROOT)}] - 2027-01-31\n")
    return tmp_path


def test_a_release_that_fits_has_no_fault(project: Path) -> None:
    assert list(faults_of(project, f"v{version_of(ROOT)}", REPOSITORY)) == []


def test_another_tag_is_a_fault(project: Path) -> None:
    (fault,) = faults_of(project, "v99.0.0", REPOSITORY)
    assert "v99.0.0" in fault


def test_a_changelog_without_a_date_is_a_fault_of_a_tag_and_none_of_a_trial(project: Path) -> None:
    (project / "CHANGELOG.md").write_text(f"## [{version_of(ROOT)}] - Unreleased\n")
    (fault,) = faults_of(project, f"v{version_of(ROOT)}", REPOSITORY)
    assert "CHANGELOG.md" in fault
    assert list(faults_of(project, "", REPOSITORY)) == []


def test_links_to_another_repository_are_a_fault_of_each_file(project: Path) -> None:
    faults = list(faults_of(project, "", "https://github.com/somebody/else"))
    assert [fault.partition(" ")[0] for fault in faults] == ["pyproject.toml", "Dockerfile", "mkdocs.yml"]


def test_the_check_prints_the_version_for_the_next_steps() -> None:
    script = str(ROOT / "deploy" / "release" / "check_release.py")
    done = python(script, "--tag", "", "--repository", REPOSITORY)
    assert (done.returncode, done.stdout) == (0, f"version={version_of(ROOT)}\n"), done.stderr
    refused = python(script, "--tag", "v99", "--repository", REPOSITORY)
    assert refused.returncode == 1
    assert refused.stdout == ""


def test_no_known_weakness_is_found_in_the_workflows() -> None:
    zizmor = shutil.which(
        "zizmor", path=str(Path(python("-c", "import sys; print(sys.executable)").stdout).parent)
    )
    assert zizmor is not None
    done = run(zizmor, "--offline", "--no-progress", ".github")
    assert done.returncode == 0, done.stdout
