"""Work over processes: in order, no further ahead than needed, and the same in one process."""

from __future__ import annotations

import itertools
import os
from contextlib import closing
from functools import partial

import pytest

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
