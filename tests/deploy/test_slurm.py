"""The script for Slurm, as far as it can be read without Slurm; ``check_slurm.py`` runs it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.children import run


@pytest.fixture
def script(deploy: Path) -> Path:
    """The script."""
    return deploy / "slurm" / "cluster.sbatch"


def test_the_shell_reads_it(script: Path) -> None:
    done = run("bash", "-n", str(script))
    assert done.returncode == 0, done.stderr


def test_a_linter_finds_no_fault_with_the_scripts(script: Path, deploy: Path) -> None:
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if program is None:
        pytest.skip("there is no shellcheck here")
    # Every shell of a Linux knows 'ulimit -n', which POSIX leaves out.
    done = run(program, "--exclude=SC3045", str(script), str(deploy / "helm" / "run-nginx.sh"))
    assert done.returncode == 0, done.stdout


def test_there_is_more_time_to_stop_than_the_nodes_take(script: Path) -> None:
    (warned_s,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", script.read_text("utf-8"), re.MULTILINE)
    # Calls under way and slots handed over, as a pod has them.
    assert int(warned_s) >= 60
