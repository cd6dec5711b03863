"""Programs whose starter has died."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.children import ROOT
from tests.waiting import HANG_S
from verl_agent_env.cluster import orphans

LISTENS = "import time; print('up', flush=True); time.sleep(3600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {LISTENS}"


class Group:
    """A program in a process group of its own."""

    def __init__(self, stack: ExitStack, code: str) -> None:
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        stack.callback(self.process.kill)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_what_is_left_at_the_end_is_ended_and_what_had_ended_is_spared(stack: ExitStack) -> None:
    left, ended = Group(stack, LISTENS), Group(stack, LISTENS)
    # Its number could be another program's by now.
    orphans.watch([f"+{left.process.pid}\n", f"+{ended.process.pid}\n", f"-{ended.process.pid}\n"])
    assert left.process.wait(HANG_S) < 0
    assert ended.process.poll() is None


def test_who_does_not_listen_is_killed(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = Group(stack, DEAF)
    monkeypatch.setattr(orphans, "GRACE_S", 0.2)
    orphans.watch([f"+{deaf.process.pid}\n"])
    assert deaf.process.wait(HANG_S) == -9


def test_the_script_acts_when_its_input_ends_whatever_became_of_its_starter(
    stack: ExitStack, tmp_path: Path
) -> None:
    left, folder = Group(stack, LISTENS), tmp_path / "files"
    folder.mkdir()
    script = [sys.executable, "-S", "-E", str(ROOT / "src/verl_agent_env/cluster/orphans.py"), str(folder)]
    watch = stack.enter_context(
        subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    )
    stack.callback(watch.kill)
    assert watch.stdin is not None
    assert watch.stdout is not None
    # The watch itself is no child of whoever started it, who may be ended with all children.
    assert watch.wait(HANG_S) == 0
    watch.stdin.write(f"+{left.process.pid}\n")
    watch.stdin.flush()
    assert left.process.poll() is None
    watch.stdin.close()
    assert watch.stdout.read() == ""
    assert left.process.wait(HANG_S) < 0
    assert not folder.exists()
