"""All keys of a data set carry one hash tag, and different data sets share none."""

from __future__ import annotations

import pytest

from verl_agent_env.cluster.backends import BackendOptions, open_backend
from verl_agent_env.cluster.redis.keys import Keys


def all_keys(keys: Keys) -> list[str]:
    fixed = [
        keys.generation,
        keys.version,
        keys.num_slots_kept,
        keys.changes,
        keys.owners,
        keys.names,
        keys.expiries,
    ]
    return [*fixed, keys.lease("i{n}c"), keys.ended("i{n}c")]


def test_keys_carry_the_tag_first() -> None:
    for key in all_keys(Keys("verl-0")):
        assert key.startswith("{verl-0}:")


def test_keys_differ_from_each_other_and_between_data_sets() -> None:
    keys = all_keys(Keys("a")) + all_keys(Keys("b"))
    assert len(set(keys)) == len(keys)


def test_prefixes_are_those_of_the_keys() -> None:
    keys = Keys("a")
    assert keys.lease("x") == keys.lease_prefix + "x"
    assert keys.ended("x") == keys.ended_prefix + "x"


@pytest.mark.parametrize("wrong", ["", "a b", "{a}", "a}", "a:b", "ä"])
def test_namespace_that_would_move_the_tag_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Keys(wrong)


def test_no_cluster_is_in_the_namespace_of_the_event_logs_of_another_one() -> None:
    assert Keys.of_cluster("a").of_logs().namespace == "a.log"
    assert Keys.of_cluster("a.logs", 65_536) == Keys("a.logs", 65_536)
    with pytest.raises(ValueError, match="must not end with"):
        Keys.of_cluster("a.log")
    with pytest.raises(ValueError, match="must not end with"):
        open_backend("redis://127.0.0.1", BackendOptions("a.log"))
