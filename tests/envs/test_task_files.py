"""Task lists in files."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.task_files import read_task_files
from verl_agent_env.envs.tasks import Split, Task
from verl_agent_env.integrations.datasets import Component, CurationPlan, curate

LAKE = "verl_env/frozen_lake-v1"


def lines(path: Path, *rows: object) -> Path:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def test_json_lines_are_tasks_of_the_split_that_the_file_is_named_for(tmp_path: Path) -> None:
    path = lines(tmp_path / "hard.jsonl", {"seed": 7}, {"split": "test", "env_kwargs": {"size": 3}})
    tasks = read_task_files(default_registry(), [f"frozen_lake={path}"])[LAKE]
    assert tasks.splits() == [Split("hard", 1), Split("test", 1)]
    assert tasks.task("hard", 0).seed == 7


def test_a_mixture_gives_each_environment_its_own_rows(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "train.jsonl", {"env_name": "sokoban", "seed": 1}, {"env_name": LAKE, "seed": 2}, {"seed": 3}
    )  # fmt: skip
    lists = read_task_files(default_registry(), [f"frozen_lake={path}", f"sokoban={path}"])
    assert [lists[LAKE].task("train", index).seed for index in range(2)] == [2, 3]
    assert lists["verl_env/sokoban-v0"].task("train", 0).seed == 1


def test_curated_data_is_a_task_list_its_greedy_repetitions_left_out(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    component = Component("frozen_lake", 1.0, {"size": 4})
    curate(CurationPlan((component,), train=3, test=2, test_greedy=True), tmp_path)
    given = [f"frozen_lake={tmp_path / name}.parquet" for name in ("train", "test")]
    tasks = read_task_files(default_registry(), given)[LAKE]
    assert tasks.splits() == [Split("train", 3), Split("test", 2)]
    first = tasks.task("train", 0)
    assert first == Task("train", 0, first.seed, {"size": 4}, "train/0")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "JSON objects"),
        ({"seed": "x"}, "task 1: seed must be"),
        ({"env_name": "sokobn"}, "task 1: No environment"),
        ({"env_name": "sokoban"}, "no task of 'verl_env/frozen_lake-v1'"),
        ({"env_kwargs": {"size": 0}}, "task 1: 'verl_env/frozen_lake-v1' does not take"),
    ],
)
def test_a_file_that_is_no_list_is_refused_with_its_place(tmp_path: Path, row: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_task_files(default_registry(), [f"frozen_lake={lines(tmp_path / 'train.jsonl', row)}"])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("frozen_lake", "NAME=FILE"),
        ("frozen_lake=", "NAME=FILE"),
        ("nowhere=x.jsonl", "No environment"),
        ("frozen_lake=/nowhere/x.jsonl", "cannot be read"),
        ("frozen_lake=/nowhere/x.parquet", "cannot be read"),
    ],
)
def test_what_names_no_file_of_an_environment_is_refused(given: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_task_files(default_registry(), [given])


def test_a_line_that_is_not_json_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"seed": 1}\n\n{"seed": ')
    with pytest.raises(ValueError, match="line 3 is not JSON"):
        read_task_files(default_registry(), [f"frozen_lake={path}"])
