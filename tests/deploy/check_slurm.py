"""The script for Slurm, run: two jobs of two hosts each, which are addresses of the loopback. Seconds; ``make deploy-test``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.children import run
from tests.cluster.redis_process import binary
from tests.ports import free_ports

HOSTS = ("127.0.0.2", "127.0.0.3")
PROGRAMS = {
    "scontrol": f'[ "$1 $2" = "show hostnames" ]\nprintf "%s\\n" {" ".join(HOSTS)}\n',
    # The command on each host, and their numbers for scancel.
    "srun": f"""
while [ "${{1#--}}" != "$1" ]; do shift; done
for host in {" ".join(HOSTS)}; do
    SLURMD_NODENAME=$host NODE_ADDRESS=$host "$@" >"$FAKE/node-$host.log" 2>&1 &
    echo $! >>"$FAKE/step"
done
trap '' TERM
wait
""",
    "scancel": '[ "$1 $2" = "--signal=TERM $SLURM_JOB_ID.0" ]\nkill -TERM $(cat "$FAKE/step")\nrm "$FAKE/step"\n',
}
CALL = """
import json, os, pathlib, sys, urllib.request
def call(path, body=None):
    headers = {"Authorization": "Bearer " + os.environ["VERL_AGENT_ENV_TOKEN"], "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["CLUSTER_URL"] + path, data, headers)
    return json.load(urllib.request.urlopen(request))
kept = pathlib.Path(os.environ["FAKE"], "env_id")
"""
BEGINS = f"""{CALL}
kept.write_text(call("/api/environment/initialize", {{"env_name": "frozen_lake", "seed": 1}})["env_id"])
call(f"/api/environment/{{kept.read_text()}}/step", {{"action": "right"}})
"""
GOES_ON = f"""{CALL}
print(json.dumps(call(f"/api/environment/{{kept.read_text()}}/trajectory")))
sys.exit(7)
"""


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Those of a job, and the fakes that stand for Slurm's programs."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nset -e\n{text}")
        (tmp_path / name).chmod(0o755)
    own = [
        tmp_path,
        Path(sys.executable).parent,
        *(Path(binary(name)).parent for name in ("nginx", "redis-server")),
    ]
    return {
        "PATH": ":".join(map(str, [*own, "/usr/bin", "/bin"])),
        "FAKE": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "127.0.0.[2-3]",
        "CLUSTER_FOLDER": str(tmp_path / "kept"),
        "CLUSTER_WORKERS": "1",
        "CLUSTER_PORT": str(free_ports(12)[0]),
    }


def test_an_episode_goes_on_in_the_next_job_and_nothing_else_does(
    deploy: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    script = str(deploy / "slurm" / "cluster.sbatch")
    first = run("bash", script, sys.executable, "-c", BEGINS, variables=variables, timeout_s=600)
    logs = "\n".join(path.read_text("utf-8", "replace") for path in tmp_path.rglob("*.log"))
    assert first.returncode == 0, first.stdout + first.stderr + logs
    assert "The cluster is ready: http://127.0.0.2:" in first.stdout
    second = run("bash", script, sys.executable, "-c", GOES_ON, variables=variables, timeout_s=600)
    # As its program ended.
    assert second.returncode == 7, second.stdout + second.stderr
    assert '"right"' in second.stdout
    assert str(tmp_path) not in run("ps", "-eo", "args").stdout
    for secret in ("password", "token"):
        assert (tmp_path / "kept" / secret).stat().st_mode & 0o077 == 0
