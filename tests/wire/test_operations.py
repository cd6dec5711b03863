"""Ids of operations: one for each thing that a call asks of an environment."""

from __future__ import annotations

import multiprocessing
import random

from verl_agent_env.wire.operations import call_of, new_call, operations_of, split


def test_ids_that_come_with_a_call_are_kept_if_any_log_can_hold_them() -> None:
    assert call_of(None) == call_of(b"") == b""
    assert call_of(b"0123456789abcdef0123456789abcdef") == b"0123456789abcdef0123456789abcdef"
    kept = [call_of(given) for given in (b"a 1", b"a", "ä".encode("latin-1"), b"x" * 65, b"x" * 60_000)]
    assert len(set(kept)) == 5
    assert all(call.isascii() and len(call) <= 64 and split(call) == (call, 0) for call in kept)


def test_calls_without_an_id_get_one_each() -> None:
    assert len({new_call() for _ in range(100)}) == 100
    assert call_of(new_call())


def test_an_environment_that_seeds_the_module_repeats_no_ids() -> None:
    ids = []
    for _ in range(2):
        random.seed(7)
        ids.append(new_call())
    assert len(set(ids)) == 2


def test_processes_of_one_parent_give_different_ids() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        ids = [pool.apply(new_call) for _ in range(4)]
    assert len({*ids, new_call()}) == 5


def test_operations_on_one_environment_differ() -> None:
    assert operations_of(b"call", ["a", "b", "a", "a", "b"]) == [
        b"call",
        b"call",
        b"call 1",
        b"call 2",
        b"call 1",
    ]
    assert [split(b"call"), split(b"call 12")] == [(b"call", 0), (b"call", 12)]


def test_operations_without_a_double_are_one_object() -> None:
    operations = operations_of(b"call", [str(number) for number in range(100)])
    assert {id(operation) for operation in operations} == {id(operations[0])}
