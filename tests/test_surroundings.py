"""What the tests stand on: surroundings, ports and children that are the same on every machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from tests.children import ROOT, end_group, python
from tests.pool_process import is_running
from tests.ports import free_port, free_ports
from tests.surroundings import AUTHORITIES, WIDTH, settle_variables
from tests.waiting import eventually

ASK = """
import signal, subprocess, sys
from tests.surroundings import handle_ignored_signals
handle_ignored_signals()
ask = "import signal; print(*(signal.getsignal(n).name for n in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)))"
print(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
signal.raise_signal(signal.SIGHUP)
print("still there")
"""
IGNORING = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def test_children_of_a_run_under_nohup_take_signals_and_the_run_survives_a_hang_up() -> None:
    done = python("-c", IGNORING, ASK)
    assert done.stdout.splitlines() == ["SIG_DFL SIG_DFL SIG_DFL", "still there"], done.stderr


def test_variables_of_the_person_who_runs_the_tests_do_not_reach_them() -> None:
    variables = {
        "VERL_AGENT_ENV_PORT": "1",
        "OPENAI_API_KEY": "k",
        "PYTHONDONTWRITEBYTECODE": "1",
        "FORCE_COLOR": "1",
        "COLUMNS": "20",
        "PATH": "/bin",
        "NO_PROXY": "intranet",
    }
    settle_variables(variables)
    assert variables.pop("no_proxy") == "127.0.0.1,::1,localhost"
    assert variables == {
        "COLUMNS": str(WIDTH),
        "LINES": "50",
        "SSL_CERT_DIR": AUTHORITIES,
        "PATH": "/bin",
        "NO_PROXY": "intranet,127.0.0.1,::1,localhost",
    }


@pytest.mark.parametrize("arguments", [("list", "--verbose"), ("check-env", "frozen_lake", "--steps", "1")])
def test_what_a_command_prints_is_not_wrapped(arguments: tuple[str, ...]) -> None:
    assert os.environ["COLUMNS"] == str(WIDTH)
    done = python("-m", "verl_agent_env.cli", *arguments)
    assert done.returncode == 0, done.stderr
    assert "verl_env/frozen_lake-v1" in done.stdout


def test_a_port_stays_free_for_who_asked_until_a_server_listens_and_after_it_stopped() -> None:
    port = free_port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with closing(socket.socket()) as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
            pass


def test_ports_in_a_row_are_nobody_elses() -> None:
    rows = [free_ports(3) for _ in range(10)]
    assert all(row == list(range(row[0], row[0] + 3)) for row in rows)
    assert len({port for row in rows for port in row}) == 30


def test_a_program_that_hangs_is_ended_with_all_that_it_started() -> None:
    hangs = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hangs], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        end_group(process)
    assert process.returncode == -signal.SIGTERM
    eventually(lambda: not is_running(child), what="the end of what it started")
