"""Results of tasks as they are written, counted and named."""

from __future__ import annotations

import pytest

from verl_agent_env.wire.task_results import (
    MAX_TASKS_PER_RUN,
    OTHER_TASKS,
    TASKS_PER_PAGE,
    ResultTable,
    TaskResult,
    arguments_digest,
    run_key,
    task_key,
)


@pytest.mark.parametrize("reward", [0.0, -0.1, 1 / 3, 1e300, 5e-324])
@pytest.mark.parametrize("task", ["lake@1", "a name with blanks@2"])
def test_result_is_read_as_it_was_written(task: str, reward: float) -> None:
    result = TaskResult("run", task, True, reward)
    assert TaskResult.from_bytes(result.to_bytes()) == result


def test_tasks_are_told_apart_by_name_seed_and_arguments() -> None:
    digest = arguments_digest({"size": 4, "slippery": False})
    assert digest == arguments_digest({"slippery": False, "size": 4})
    names = {
        task_key("lake", digest, 1),
        task_key("lake", digest, 2),
        task_key("lake", arguments_digest({"size": 5}), 1),
        task_key("lake", arguments_digest({}), 1),
        task_key("other", digest, 1),
    }
    assert len(names) == 5


def test_runs_of_two_holders_are_two_runs() -> None:
    assert len({run_key("r", ""), run_key("r", "tag"), run_key("s", "tag")}) == 3
    assert run_key("r", "") == run_key("r", None)


def test_table_counts_in_pages_and_knows_its_bound() -> None:
    table = ResultTable()
    for number in range(MAX_TASKS_PER_RUN + 2):
        table.add(TaskResult("run", str(number), number % 2 == 0, 0.5))
    table.add(TaskResult("run", "0", False, 1.0))
    first = table.page("run", "0")
    assert len(first.statistics) == TASKS_PER_PAGE
    assert first.statistics[0] == ("0", 2, 1, 1.5)
    last = table.page("run", str(MAX_TASKS_PER_RUN))
    assert last == ([(OTHER_TASKS, 2, 1, 1.0)], None)
    assert table.page("none", "0") == ([], None)
    assert table.page("run", "9" * 20) == ([], None)


def test_runs_without_results_for_longest_are_forgotten_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("verl_agent_env.wire.task_results.MAX_TASKS_IN_MEMORY", 10)
    table = ResultTable()
    for run in ("first", "second", "first"):
        for task in ("a", "b"):
            table.add(TaskResult(run, task, True, 1.0))
    for number in range(3):
        table.add(TaskResult("third", str(number), True, 1.0))
    assert [len(table.page(run, "0").statistics) for run in ("first", "second", "third")] == [2, 2, 3]
    table.add(TaskResult("fourth", "a", True, 1.0))
    assert [len(table.page(run, "0").statistics) for run in ("first", "second", "third")] == [2, 0, 3]
    for number in range(20_000):
        table.add(TaskResult(str(number), "a", True, 1.0))
    assert len(table.page("19995", "0").statistics) == 1
    assert table.page("19994", "0") == table.page("first", "0") == ([], None)
    table.clear()
    for task in "abcdefghi":
        table.add(TaskResult("run", task, True, 1.0))
    assert len(table.page("run", "0").statistics) == 9
