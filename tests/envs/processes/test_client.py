"""The launcher starts programs, says how they end, and leaves nothing behind, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.envs.mcp_chat.support import ended, is_running, open_descriptors
from tests.waiting import NEVER_S, no_hang
from verl_agent_env.envs.processes import ChildProcess, LauncherClient, ProgramStartError

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)
WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session={new_session})
print(child.pid, flush=True)
time.sleep({sleep})
"""


@pytest.fixture
async def launcher() -> AsyncIterator[LauncherClient]:
    made = LauncherClient()
    yield made
    await made.aclose()
    assert not is_running(made.pid)


async def run(launcher: LauncherClient, program: str) -> ChildProcess:
    return await launcher.start((sys.executable, "-c", program), {}, None)


async def line_of(process: ChildProcess) -> str:
    return (await asyncio.to_thread(os.read, process.stdout, 100)).decode().strip()


def close(process: ChildProcess) -> None:
    for descriptor in (process.stdin, process.stdout, process.stderr):
        os.close(descriptor)


async def test_server_speaks_through_its_pipes_and_its_end_is_known(launcher: LauncherClient) -> None:
    process = await run(launcher, "print(input().upper()); raise SystemExit(7)")
    os.write(process.stdin, b"hello\n")
    assert await line_of(process) == "HELLO"
    async with no_hang():
        assert await process.exited == 7
    close(process)


async def test_program_that_cannot_be_run_is_a_typed_error_and_costs_no_descriptor(
    launcher: LauncherClient,
) -> None:
    before = open_descriptors()
    with pytest.raises(ProgramStartError) as caught:
        await launcher.start(("/nowhere/at/all",), {}, None)
    assert "nowhere" not in str(caught.value)
    assert open_descriptors() == before


async def test_stop_lets_a_server_end_by_itself_first(launcher: LauncherClient) -> None:
    process = await run(launcher, "import sys; sys.stdin.read(); raise SystemExit(0)")
    os.close(process.stdin)
    await process.stop(NEVER_S)
    assert process.exited.result() == 0
    os.close(process.stdout)
    os.close(process.stderr)


async def test_stop_kills_what_does_not_obey(launcher: LauncherClient) -> None:
    process = await run(launcher, STUBBORN)
    await line_of(process)
    await process.stop(0.1)
    assert process.exited.result() == -signal.SIGKILL
    close(process)


@pytest.mark.parametrize("new_session", [True, False])
async def test_what_a_server_started_ends_with_it(launcher: LauncherClient, new_session: bool) -> None:
    process = await run(launcher, WITH_CHILD.format(new_session=new_session, sleep=600))
    child = int(await line_of(process))
    await process.stop(0.1)
    assert await ended(process.pid, child)
    close(process)


async def test_what_a_crashed_server_started_ends_too_and_others_stay(launcher: LauncherClient) -> None:
    other = await run(launcher, WITH_CHILD.format(new_session=True, sleep=600))
    others_child = int(await line_of(other))
    process = await run(launcher, WITH_CHILD.format(new_session=True, sleep=0.2))
    child = int(await line_of(process))
    assert await ended(child)
    assert is_running(others_child)
    close(process)
    close(other)


async def test_end_of_the_launcher_ends_all_servers_and_is_seen() -> None:
    launcher = LauncherClient()
    process = await run(launcher, STUBBORN)
    await line_of(process)
    os.kill(launcher.pid, signal.SIGKILL)
    async with no_hang():
        assert await process.exited == -signal.SIGKILL
    assert await ended(process.pid)
    assert not launcher.is_alive
    with pytest.raises(ProgramStartError):
        await run(launcher, SLEEP)
    await launcher.aclose()
    close(process)


async def test_start_that_nobody_waits_for_leaves_no_process(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    started = tmp_path / "pid"
    starting = asyncio.create_task(
        run(launcher, f"import os; open({str(started)!r}, 'w').write(str(os.getpid())); {SLEEP}")
    )
    await asyncio.sleep(0)
    before = open_descriptors()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert open_descriptors() < before
    await asyncio.sleep(0.5)
    assert not started.exists() or not started.read_text() or await ended(int(started.read_text()))


async def test_server_takes_signals_that_its_worker_was_told_to_ignore() -> None:
    told = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    before = [signal.signal(number, signal.SIG_IGN) for number in told]
    try:
        launcher = LauncherClient()
        process = await run(
            launcher,
            f"import signal; print([signal.getsignal(n) is signal.SIG_IGN for n in {[*map(int, told)]}], flush=True)",
        )
        assert await line_of(process) == "[False, False, False]"
        await launcher.aclose()
        close(process)
    finally:
        for number, handler in zip(told, before, strict=True):
            signal.signal(number, handler)


async def test_signals_of_the_terminal_do_not_end_the_launcher(launcher: LauncherClient) -> None:
    process = await run(launcher, SLEEP)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(launcher.pid, number)
    await asyncio.sleep(0.1)
    assert is_running(launcher.pid)
    assert is_running(process.pid)
    close(process)
