"""Other programs that tests start: each has an end, whatever becomes of the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.preloaded import ForkedProcess, preloaded
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[1]
_GRACE_S = 30.0


def run(
    *command: str,
    variables: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = HANG_S,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with nothing to read, and give what it wrote.

    Args:
        command: The program and its arguments.
        variables: What its environment has beside this process's.
        cwd: Where it runs.
        timeout_s: Beyond this it hangs.

    Raises:
        subprocess.TimeoutExpired: It hung, and was ended.
    """
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException:
            end_group(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def python(
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = HANG_S,
) -> subprocess.CompletedProcess[str]:
    """As :func:`run`, with this Python as the program."""
    return run(sys.executable, *arguments, variables=variables, cwd=cwd, timeout_s=timeout_s)


def cli(*arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``verl-agent-env`` to its end, with nothing to read, and give what it wrote.

    Args:
        arguments: Of the command line.
        variables: What its environment has beside this process's.

    Raises:
        subprocess.TimeoutExpired: It hung, and was killed.
    """
    return _run_forked(arguments, variables)


def forked_python(
    *arguments: str, variables: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout_s: float = HANG_S
) -> subprocess.CompletedProcess[str]:
    """As :func:`python`, in a process that has imported the package already, as :func:`cli`: for what is not about imports.

    Args:
        arguments: ``-W error`` or nothing, then ``-c`` and code, ``-m`` and a module, or a file; then arguments of it.
        variables: What its environment has beside this process's.
        cwd: Where it runs.
        timeout_s: Beyond this it hangs.

    Raises:
        subprocess.TimeoutExpired: It hung, and was killed.
    """
    return _run_forked(arguments, variables, timeout_s, folder=cwd, is_python=True)


def _run_forked(
    arguments: Sequence[str], variables: Mapping[str, str] | None, timeout_s: float = HANG_S, **how: Any
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(variables or {})}
    with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        process = preloaded(environment).start(
            arguments, environment, stderr.fileno(), stdout.fileno(), **how
        )
        try:
            code = process.wait(timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def end_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a program that leads its own session, and what it started there: asked first, killed in the end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end(
    process: subprocess.Popen[str] | subprocess.Popen[bytes] | ForkedProcess, timeout_s: float = HANG_S
) -> int:
    """End a program and give its exit code: asked first, killed if it does not listen.

    Raises:
        subprocess.TimeoutExpired: It did not.
    """
    process.terminate()
    try:
        return process.wait(timeout_s)
    finally:
        process.kill()
        process.wait()
