"""Processes that compare expressions are kept, limited, replaced and ended."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from verl_agent_env.envs.scorers.math_pool import MathPool, TooHardError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the extra 'math'"
)


def asked(answer: str, reference: str = "x", cpu_s: float = 5.0) -> dict[str, Any]:
    return {"references": [reference], "answer": answer, "rounding": 6, "cpu_s": cpu_s}


@pytest.fixture
def pool() -> Iterator[MathPool]:
    pool = MathPool(max_processes=1)
    yield pool
    pool.close()


def pid_of(pool: MathPool) -> int:
    (process,) = pool._idle
    return process._process.pid


def test_process_is_kept_for_the_next_question(pool: MathPool) -> None:
    assert pool.ask(asked("x+y", "y+x")) == {"equal": True}
    first = pid_of(pool)
    assert pool.ask(asked("y")) == {"equal": False}
    assert pid_of(pool) == first


def test_question_that_takes_too_long_ends_its_process_alone(pool: MathPool) -> None:
    with pytest.raises(TooHardError):
        pool.ask(asked("9^{9^{9^9}}", "2", cpu_s=0.3))
    assert pool.ask(asked("x")) == {"equal": True}


def test_process_that_was_killed_is_replaced_and_asked_again(pool: MathPool) -> None:
    pool.ask(asked("x"))
    first = pid_of(pool)
    os.kill(first, signal.SIGKILL)
    assert pool.ask(asked("x")) == {"equal": True}
    assert pid_of(pool) != first


def test_threads_share_the_processes(pool: MathPool) -> None:
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(pool.ask(asked("x")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert answers == [{"equal": True}] * 8
    assert len(pool._idle) == 1


def test_closed_pool_leaves_no_process(pool: MathPool) -> None:
    pool.ask(asked("x"))
    process = pool._idle[0]._process
    pool.close()
    assert process.poll() is not None


def test_readability_of_references_is_told(pool: MathPool) -> None:
    readable = {"references": ["x^2", "[0,1)"], "cpu_s": 5.0}
    assert pool.ask(readable) == {"readable": True}
    assert pool.ask({**readable, "references": ["x^2", r"\frac{"]}) == {"readable": False}
