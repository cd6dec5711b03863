"""The script for Slurm, as far as it can be read without Slurm; ``check_slurm.py`` runs it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.children import run
from tests.waiting import HANG_S


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


def test_a_job_whose_watcher_ends_ends_as_well_and_uses_no_configuration_of_a_job_before(
    script: Path, tmp_path: Path
) -> None:
    programs = {
        "scontrol": "echo 127.0.0.1",
        "srun": 'echo $$ >"$FAKE/step"; exec sleep 60',
        "scancel": 'kill "$(cat "$FAKE/step")"',
        "redis-server": "exec sleep 60",
        "nginx": 'touch "$FAKE/nginx-ran"; exec sleep 60',
        "verl-agent-env": 'until [ -s "$FAKE/step" ]; do sleep 0.05; done; echo "no such port" >&2; exit 2',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    kept = tmp_path / "a job before"
    (kept / "nginx").mkdir(parents=True)
    (kept / "nginx" / "nginx.conf").write_text("of other hosts")
    variables = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "FAKE": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "127.0.0.1",
        "CLUSTER_FOLDER": str(kept),
    }
    done = run("bash", str(script), variables=variables, timeout_s=HANG_S)
    assert done.returncode == 1, done.stderr
    assert (kept / "watcher.log").read_text() == "no such port\n"
    assert not (tmp_path / "nginx-ran").exists()
    assert f'dir "{kept}/redis"' in (kept / "redis.conf").read_text()
