"""Splits and tasks: what rows are, and how seeds are divided by their layouts."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.envs.layouts import TEST_SHARE
from verl_agent_env.envs.tasks import (
    MAX_SEED_TASKS,
    SAMPLED_SEEDS,
    Split,
    Task,
    TaskList,
    seed_splits,
    seeds_of,
    share_for_tests,
    split_at,
)


def test_ranges_of_seeds_follow_each_other_without_overlap() -> None:
    ranges = [seeds_of(index) for index in range(3)]
    assert [seed for seeds in ranges for seed in (seeds[0], seeds[-1] + 1)][1:-1] == [
        seeds_of(1)[0], seeds_of(1)[0], seeds_of(2)[0], seeds_of(2)[0],
    ]  # fmt: skip
    assert seeds_of(MAX_SEED_TASKS - 1)[-1] == 2**53 - 1


def test_the_usual_share_holds_as_soon_as_both_splits_have_a_layout() -> None:
    assert share_for_tests([0.9, 0.5]) is None
    assert share_for_tests([0.9, 0.5, 0.01]) == TEST_SHARE


@pytest.mark.parametrize("places", [(0.9, 0.5, 0.3), (0.01, 0.02, 0.03)])
def test_a_kind_of_few_layouts_keeps_one_for_tests(places: tuple[float, ...]) -> None:
    positions = [places[number % 3] for number in range(SAMPLED_SEEDS)]
    assert share_for_tests(positions[:-1]) is None
    share = share_for_tests(positions)
    assert share is not None
    assert sorted(place for place in places if split_at(place, share) == "test") == [min(places)]


def test_a_kind_of_one_layout_has_no_tests() -> None:
    share = share_for_tests([0.01] * SAMPLED_SEEDS)
    assert share == 0.0
    assert split_at(0.01, share) == "train"
    assert seed_splits(share) == [Split("train", MAX_SEED_TASKS, infinite=True), Split("test", 0)]


def test_rows_become_tasks_of_their_splits() -> None:
    tasks = TaskList.of(
        {
            "train": [{"id": "a", "seed": 9, "env_kwargs": {"size": 3}}, {"env_kwargs": '{"size": 4}'}],
            "hard": [{}, {"split": "train"}],
        }
    )
    assert tasks.splits() == [Split("train", 3), Split("hard", 1)]
    assert tasks.task("train", 0) == Task("train", 0, 9, {"size": 3}, "a")
    assert tasks.task("train", 1) == Task("train", 1, 1, {"size": 4}, "train/1")
    assert [split.type for split in tasks.splits()] == ["train", "validation"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x"}, "unknown field 'prompt'"),
        ({"seed": -1}, "seed must be"),
        ({"seed": True}, "seed must be"),
        ({"seed": 2**63}, "seed must be"),
        ({"split": "a/b"}, "split must be"),
        ({"split": ""}, "split must be"),
        ({"env_kwargs": [1]}, "env_kwargs must be an object"),
        ({"env_kwargs": "{"}, "unexpected end"),
    ],
)
def test_a_row_that_is_no_task_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TaskList().add(row, "train")
