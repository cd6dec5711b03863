"""Work over processes: in order, no further ahead than needed, and the same in one process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest

from tests.children import ROOT
from tests.waiting import HANG_S, NEVER_S
from verl_agent_env.integrations.datasets.workers import Workers

begun_with: list[int] = []


def begin(number: int) -> None:
    if number < 0:
        raise ValueError("no such number")
    begun_with[:] = [number]


def plus(more: int, item: int) -> tuple[int, int]:
    if item == 1_000_000:
        raise KeyError("too many")
    return begun_with[0] + more + item, os.getpid()


@pytest.mark.parametrize("count", [1, 2])
def test_all_items_come_back_in_order(count: int) -> None:
    with Workers(count, begin, 100) as workers:
        made = list(workers.map(partial(plus, 5), range(500)))
    assert [value for value, _ in made] == [105 + item for item in range(500)]
    processes = {process for _, process in made}
    if count == 1:
        assert processes == {os.getpid()}
    else:
        assert os.getpid() not in processes


def test_endless_work_ends_when_nobody_wants_more() -> None:
    with Workers(2, begin, 0) as workers:
        with closing(workers.map(partial(plus, 0), itertools.count())) as made:
            assert [value for value, _ in itertools.islice(made, 3)] == [0, 1, 2]
        assert [value for value, _ in workers.map(partial(plus, 1), range(2))] == [1, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_what_fails_is_raised_where_its_turn_would_be(count: int) -> None:
    with Workers(count, begin, 0) as workers:
        made = workers.map(partial(plus, 0), itertools.chain(range(40), [1_000_000]))
        taken: list[tuple[int, int]] = []
        with pytest.raises(KeyError):
            taken.extend(made)
    # A chunk is given whole or not at all.
    assert [value for value, _ in taken] == list(range(40 if count == 1 else 32))


@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_begin_is_said_here(count: int) -> None:
    with pytest.raises(ValueError, match="no such number"), Workers(count, begin, -1):
        pytest.fail("it began")


def interrupted(item: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return item


def test_an_interrupt_is_left_to_the_process_that_started_them() -> None:
    with Workers(2, begin, 0) as workers:
        assert list(workers.map(interrupted, range(40))) == list(range(40))


def work_for_ever(_: int) -> None:
    os.write(1, b"at work\n")
    time.sleep(NEVER_S)


def run_for_ever() -> None:
    with Workers(2, begin, 0) as workers:
        list(workers.map(work_for_ever, range(100)))


@pytest.mark.parametrize("interrupted", [False, True], ids=["killed", "interrupted"])
def test_the_processes_end_with_the_one_that_started_them_and_say_nothing(interrupted: bool) -> None:
    command = [sys.executable, "-c", f"from {__name__} import run_for_ever; run_for_ever()"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        try:
            assert started.stdout is not None
            assert [started.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
            if interrupted:
                # As Ctrl-C in a terminal: it reaches all of them.
                os.killpg(started.pid, signal.SIGINT)
            else:
                started.kill()
            # Its end is that of all who may write there.
            _, said = started.communicate(timeout=HANG_S)
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    assert said.count("Traceback") == interrupted
