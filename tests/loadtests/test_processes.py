"""What processes cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from loadtests.processes import cpu_of_tree, descendants, pss_of, rss_of

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


def test_memory_of_a_process_is_more_than_a_megabyte_and_less_than_what_it_has_resident() -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        assert 1 << 20 < pss_of(process.pid) <= rss_of(process.pid)
        assert process.pid in descendants(os.getpid())
        assert descendants(process.pid) == []
        assert process.stdin is not None
        process.stdin.close()
