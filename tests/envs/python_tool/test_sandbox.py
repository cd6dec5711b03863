"""Code in a sandbox computes, and does nothing else: what it tries is refused, and how it ends is known."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.children import run as run_program
from tests.waiting import HANG_S, NEVER_S, until
from verl_agent_env.envs.python_tool import inside
from verl_agent_env.envs.python_tool.sandbox import RunResult, Sandboxes, SandboxLimits
from verl_agent_env.errors import AtCapacityError, OutsideCallError

MB = 1 << 20
LIMITS = SandboxLimits(time_s=HANG_S, memory_bytes=512 * MB, max_output_bytes=10_000)
SHORT = LIMITS._replace(time_s=0.5)

ESCAPES = {
    "a process": ("import os\nos.fork()", "PermissionError"),
    "a fork bomb": ("import os\nwhile True: os.fork()", "PermissionError"),
    "another program": ("import os\nos.execv('/usr/bin/env', ['env'])", "PermissionError"),
    "a program by a shell": ("import subprocess\nsubprocess.run(['ls'])", "PermissionError"),
    "posix_spawn": ("import os\nos.posix_spawn('/usr/bin/env', ['env'], {})", "PermissionError"),
    "a pool of processes": (
        "import multiprocessing as m\nm.get_context('spawn').Process(target=print).start()",
        "PermissionError",
    ),
    "threads": ("import threading\nwhile True: threading.Thread(target=print).start()", "RuntimeError"),
    "much memory": ("x = bytearray(600 * 2**20)", "MemoryError"),
    "memory piece by piece": ("x = []\nwhile True: x.append(bytearray(2**20))", "MemoryError"),
    "memory that is shared": ("import os\nos.memfd_create('x')", "PermissionError"),
    "mapped memory": (
        "import mmap\nx = []\nwhile True:\n x.append(mmap.mmap(-1, 2**24)); x[-1].write(b'1' * 2**24)",
        "OSError",
    ),
    "an internet socket": ("import socket\nsocket.create_connection(('1.1.1.1', 53))", "PermissionError"),
    "a name": ("import socket\nsocket.getaddrinfo('example.org', 80)", "gaierror"),
    "a Unix socket": ("import socket\nsocket.socket(socket.AF_UNIX)", "PermissionError"),
    "a virtual machine's socket": ("import socket\nsocket.socket(40, socket.SOCK_STREAM)", "PermissionError"),
    "a file in the root": ("open('/x', 'w')", "OSError"),
    "a file in /tmp": ("open('/tmp/x', 'w')", "FileNotFoundError"),
    "a file in /dev": ("open('/dev/x', 'w')", "OSError"),
    "a device": ("import os, stat\nos.mknod('/dev/sda', stat.S_IFBLK | 0o666, os.makedev(8, 0))", "OSError"),
    "the installed code": ("import os\nopen(os.__file__, 'a')", "OSError"),
    "the accounts": ("open('/etc/passwd')", "FileNotFoundError"),
    "the server's variables": ("open('/proc/1/environ')", "FileNotFoundError"),
    "the memory of others": ("open('/proc/self/mem', 'wb')", "FileNotFoundError"),
    "a link that leads out": ("import os\nos.symlink('/etc/passwd', '/usr/x')", "OSError"),
    "a path that leads out": ("open('/usr/../../../../etc/shadow')", "FileNotFoundError"),
    "another root": ("import os\nos.chroot('/usr')", "PermissionError"),
    "the host's name": ("import os, socket\nsocket.sethostname('x')", "PermissionError"),
    "open files": ("import os\nx = []\nwhile True: x.append(open('/dev/null'))", "OSError"),
    "priority": ("import os\nos.nice(-10)", "PermissionError"),
    "a higher limit": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
        "ValueError",
    ),
    "another account": ("import os\nos.setuid(0)", "OSError"),
    "signals to others": ("import os\nos.kill(-1, 9)", "ProcessLookupError"),
    "a signal to the worker": (f"import os\nos.kill({os.getpid()}, 9)", "ProcessLookupError"),
}
"""Attempts by what they try to get, each with the exception that it ends with."""
ATTEMPTS = """
for code in ESCAPES:
    try:
        exec(code, {})
    except BaseException as refused:
        print(type(refused).__name__)
    else:
        print("done")
"""
# By their numbers, past the Python library: namespaces, mounts, keys, other processes' memory, filters, rings.
RAW = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in NUMBERS:
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (1, 38):
        print(number, ctypes.get_errno())
"""


async def test_output_and_the_value_of_the_last_expression_come_back(sandboxes: Sandboxes) -> None:
    assert await sandboxes.run("print(1)\nimport math\nmath.comb(10, 3)", LIMITS) == RunResult(
        "ended", "1\n120\n"
    )


async def test_every_escape_fails(sandboxes: Sandboxes) -> None:
    # All in one: whatever one of them gets, the next may use.
    result = await sandboxes.run(
        ATTEMPTS.replace("ESCAPES", repr([code for code, _ in ESCAPES.values()])), LIMITS
    )
    assert result.end == "ended", result.output
    ends = dict(zip(ESCAPES, result.output.splitlines(), strict=True))
    expected = {name: error for name, (_, error) in ESCAPES.items()}
    if any(Path(path).is_relative_to("/tmp") for path in (sys.prefix, sys.base_prefix)):  # noqa: S108 - read
        # Where Python itself lies in it there is such a folder, which cannot be written.
        expected["a file in /tmp"] = "OSError"
    assert ends == expected


async def test_system_calls_that_are_of_no_use_are_refused_by_their_numbers(sandboxes: Sandboxes) -> None:
    column = inside._ARCHITECTURES[platform.machine()][1]
    numbers = [row[column] for row in inside._DENIED.values() if row[column] is not None]
    result = await sandboxes.run(RAW.replace("NUMBERS", repr(numbers)), LIMITS)
    assert result == RunResult("ended", "")


async def test_limits_are_those_of_the_run_and_cannot_be_raised(sandboxes: Sandboxes) -> None:
    names = ("AS", "CPU", "NOFILE", "FSIZE", "CORE")
    asked = ", ".join(f"resource.getrlimit(resource.RLIMIT_{name})" for name in names)
    result = await sandboxes.run(f"import resource\n[{asked}]", LIMITS._replace(time_s=7.5))
    assert result.output == f"{[(limit, limit) for limit in (512 * MB, 8, 32, 0, 0)]}\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only this processor has calls by other numbers")
async def test_other_numbers_for_the_same_system_calls_end_the_program(sandboxes: Sandboxes) -> None:
    getpid_of_x32 = 0x40000000 + 39
    result = await sandboxes.run(f"import ctypes\nctypes.CDLL(None).syscall({getpid_of_x32})", LIMITS)
    assert result == RunResult("failed", "", 128 + signal.SIGSYS)


class Leaky(Sandboxes):
    """A sandbox that keeps nothing in, as far as anybody can tell."""

    runs = 0

    async def run(self, code: str, limits: SandboxLimits) -> RunResult:
        self.runs += 1
        return RunResult("ended", "open a socket\n" if self.runs == 1 else "")


async def test_a_sandbox_that_does_not_confine_is_refused_until_it_does_and_then_not_tried_again() -> None:
    sandboxes = Leaky()
    with pytest.raises(OutsideCallError, match="code in it can open a socket"):
        await sandboxes.require()
    for _ in range(3):
        await sandboxes.require()
    assert sandboxes.runs == 2


async def test_nothing_of_the_machine_is_to_be_seen(sandboxes: Sandboxes) -> None:
    code = "import os\n" + "\n".join(
        f"print(sorted({asked}))"
        for asked in ("os.listdir('/dev')", "os.listdir('/etc')", "os.environ", "[os.getuid(), os.getppid()]")
    )
    result = await sandboxes.run(code, LIMITS)
    devices, configuration, variables, ids = result.output.splitlines()
    assert devices == "['null', 'urandom']"
    assert configuration == "['ld.so.cache']"
    assert ids == "[1, 65534]"
    assert not {"PATH", "HOME", "USER"} & set(eval(variables))  # noqa: S307 - a list of names
    home = await sandboxes.run(f"import os\nos.listdir({str(Path.home())!r})", LIMITS)
    # Of a home only the way to this Python is there, if that lies in it.
    assert home.end == "failed" or len(home.output) < 100


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(3600)", "import os; os.read(0, 1); 2**2**40"]
)
async def test_a_program_without_end_is_ended(sandboxes: Sandboxes, code: str) -> None:
    result = await sandboxes.run(code, SHORT)
    assert (result.end, result.output) == ("out_of_time", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output_without_end_is_cut_and_its_program_ended(sandboxes: Sandboxes, stream: str) -> None:
    result = await sandboxes.run(f"import sys\nwhile True: sys.{stream}.write('x' * 1000)", LIMITS)
    assert result == RunResult("too_long", "x" * LIMITS.max_output_bytes)


async def test_a_crash_is_told_by_its_signal(sandboxes: Sandboxes) -> None:
    result = await sandboxes.run("import ctypes\nprint(1, flush=True)\nctypes.string_at(0)", LIMITS)
    assert result == RunResult("failed", "1\n", 128 + 11)


async def test_input_that_is_not_read_holds_up_nobody(sandboxes: Sandboxes) -> None:
    result = await sandboxes.run("# " + "x" * (4 * MB) + "\nprint(1)", LIMITS)
    assert result == RunResult("ended", "1\n")


async def test_half_a_character_is_no_error(sandboxes: Sandboxes) -> None:
    assert (await sandboxes.run("print('\ud800')", LIMITS)).output == "?\n"


async def test_so_many_run_at_a_time_and_the_others_take_turns(sandboxes: Sandboxes) -> None:
    two = Sandboxes(places=2)
    running, most = 0, 0

    async def one(number: int) -> RunResult:
        nonlocal running, most
        async with two.place():
            running += 1
            most = max(most, running)
            result = await two.run(f"print({number})", LIMITS)
            running -= 1
            return result

    results = await asyncio.gather(*map(one, range(6)))
    assert [result.output for result in results] == [f"{number}\n" for number in range(6)]
    assert most == 2
    await two.aclose()


async def test_who_waits_for_a_place_too_long_is_told(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Sandboxes(places=1)
    async with one.place():
        begun = time.monotonic()
        with pytest.raises(AtCapacityError):
            async with one.place():
                pass
    assert time.monotonic() - begun < HANG_S


async def test_a_caller_that_goes_away_leaves_no_process(sandboxes: Sandboxes) -> None:
    task = asyncio.create_task(
        sandboxes.run("import time\ntime.sleep(3600)", LIMITS._replace(time_s=NEVER_S))
    )
    await until(lambda: bool(children(sandboxes)), what="the sandbox")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not children(sandboxes), what="the end of the sandbox")


def children(sandboxes: Sandboxes) -> list[str]:
    pid = sandboxes.launcher_pid
    return [] if pid is None else Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


WITHOUT = """
import asyncio
from verl_agent_env.envs.python_tool import PythonToolEnv

async def go_on():
    env = PythonToolEnv()
    env.begin_effects({})
    await env.areset(seed=1)
    call = {"id": "c", "type": "function", "function": {"name": "python", "arguments": '{"code": "1"}'}}
    action = {"role": "assistant", "content": "", "tool_calls": [call]}
    env.begin_effects({"1.0": ["ended", "recorded", 0]})
    observation, *_ = await env.astep(action)
    print(observation[0]["content"])
    env.begin_effects(None)
    try: await env.astep(action)
    except Exception as refused: print(refused.code)

asyncio.run(go_on())
"""


def test_a_recorded_episode_is_replayed_without_bubblewrap_and_goes_no_further() -> None:
    done = run_program(sys.executable, "-c", WITHOUT, variables={"PATH": "/nowhere"})
    assert done.stdout.split() == ["recorded", "outside_call_failed"], done.stderr


def test_a_sandbox_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    program.chmod(0o755)
    code = (
        "import asyncio\nfrom verl_agent_env.envs.python_tool import PythonToolEnv\n"
        "try: asyncio.run(PythonToolEnv().areset(seed=1))\nexcept Exception as refused: print(refused.code, refused)"
    )
    done = run_program(sys.executable, "-c", code, variables={"PATH": str(tmp_path)})
    assert done.stdout.startswith("invalid_env_arguments")
    assert "no sandbox could be started: no namespaces here" in done.stdout


def test_without_bubblewrap_no_episode_begins_and_the_error_says_why() -> None:
    code = (
        "import asyncio\nfrom verl_agent_env.envs.python_tool import PythonToolEnv\n"
        "try: asyncio.run(PythonToolEnv().areset(seed=1))\nexcept Exception as refused: print(refused.code, refused)"
    )
    done = run_program(sys.executable, "-c", code, variables={"PATH": "/nowhere"})
    assert done.stdout.startswith("invalid_env_arguments")
    assert "the package 'bubblewrap'" in done.stdout
