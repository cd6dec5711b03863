"""A forked server is to its test what a started one is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.children import forked_python, python
from tests.conftest import StartServer
from tests.preloaded import ForkedProcess, preloaded
from tests.waiting import HANG_S


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [(["serve", "--max-batch-size", "seven"], {}), (["serve"], {"VERL_AGENT_ENV_MAX_BATCH_SIZE": "seven"})],
)
def test_exit_code_and_lines_are_those_of_the_command(
    tmp_path: Path, arguments: list[str], variables: dict[str, str]
) -> None:
    environment = {**os.environ, **variables}
    with (tmp_path / "stderr").open("wb") as file:
        process = preloaded(environment).start(arguments, environment, file.fileno())
    assert process.wait(HANG_S) == process.poll() == 2
    assert "'--max-batch-size': 'seven'" in (tmp_path / "stderr").read_text()


def test_signal_that_ends_it_is_told(start_server: StartServer) -> None:
    server = start_server()
    assert isinstance(server.process, ForkedProcess)
    assert server.process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(0.01)
    server.process.kill()
    assert server.wait() == -signal.SIGKILL


def test_it_has_no_descriptor_of_what_forked_it(start_server: StartServer) -> None:
    pids = [start_server().process.pid for _ in range(2)]
    first, second = map(pipes_of, pids)
    ours = pipes_of(os.getpid())
    # Their standard error; pipes of their own, such as an event loop's, are nobody else's.
    assert (len(first & ours), len(second & ours), first & second) == (1, 1, set())


@pytest.mark.parametrize("how", ["code", "module", "file"])
def test_python_is_as_if_it_had_just_begun(tmp_path: Path, how: str) -> None:
    code = "import sys, pathlib; print(__name__, sys.argv[1:], pathlib.Path.cwd(), sys.path[0])"
    (tmp_path / "one.py").write_text(code)
    first = {"code": ("-c", code), "module": ("-m", "one"), "file": (str(tmp_path / "one.py"),)}[how]
    done = forked_python(*first, "a", "b", cwd=tmp_path)
    where = "" if how == "code" else tmp_path
    assert done.stdout == f"__main__ ['a', 'b'] {tmp_path} {where}\n", done.stderr


def test_exception_and_warnings_of_python_are_told(tmp_path: Path) -> None:
    code = "import sys, warnings; warnings.warn('beware'); sys.exit(3)"
    assert forked_python("-c", code).returncode == 3
    done = forked_python("-W", "error", "-c", code)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "UserWarning: beware")


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [("None", 0, ""), ("SystemExit()", 0, ""), ("SystemExit(3)", 3, ""), ("SystemExit('why')", 1, "why\n")],
)
def test_command_ends_as_a_process_does(ended: str, code: int, said: str) -> None:
    steps = (
        "import atexit, threading, time",
        "from tests.forking import _end_like_a_process",
        "atexit.register(print, 'third')",
        "threading.Thread(target=lambda: (time.sleep(0.01), print('second'))).start()",
        "print('first')",
        f"_end_like_a_process({ended})",
    )
    done = python("-c", "\n".join(steps))
    assert (done.returncode, done.stdout.split(), done.stderr) == (code, ["first", "second", "third"], said)


def pipes_of(pid: int) -> set[str]:
    """Which pipes a process has open: a server that of its standard error."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        # It may close one meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("pipe:")}
