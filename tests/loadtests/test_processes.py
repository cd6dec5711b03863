"""What processes cost."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from loadtests.processes import cpu_of_tree

# A parent that does nothing, whose child spends time until it is killed or has spent a second of it.
_BUSY_CHILD = "import time\nwhile time.process_time() < 1: pass"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BUSY_CHILD!r}]); sys.stdin.read()"


def test_the_cpu_of_children_counts_while_they_run_and_after_they_have_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE) as parent:
        seen = [cpu_of_tree(parent.pid)]
        deadline = time.monotonic() + 30
        while seen[-1] < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
            seen.append(cpu_of_tree(parent.pid))
        assert parent.stdin is not None
        parent.stdin.close()
    assert seen[-1] >= 1
    assert seen == sorted(seen)


def test_the_cpu_of_no_process_is_an_error() -> None:
    with pytest.raises(ProcessLookupError):
        cpu_of_tree(2**22 + 1)
