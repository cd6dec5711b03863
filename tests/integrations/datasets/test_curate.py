"""What curated data promises: equal bytes, layouts apart, filters, mixtures, demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

import verl_agent_env.interface as interface
from verl_agent_env.errors import InvalidEnvArgumentsError, UnknownEnvNameError
from verl_agent_env.integrations.datasets import Component, CurationPlan, curate
from verl_agent_env.integrations.datasets.plan import apportion
from verl_agent_env.integrations.errors import CurationError

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

SOKOBAN = Component("sokoban", 1.0, {"dim_room": [6, 6], "num_boxes": 1})
LAKE = Component("frozen_lake", 1.0, {"size": 4})
COUNTDOWN = Component("countdown", 1.0, {"num_numbers": 3})


def rows_in(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def made(out: Path, *components: Component, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    """The rows of one split of a new data set."""
    options = {"train": 20, "test": 5, **options}
    curate(CurationPlan(components, **options), out)
    return rows_in(out / f"{split}.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_plans_give_equal_bytes_however_many_processes_make_them(tmp_path: Path) -> None:
    plan = CurationPlan((SOKOBAN, LAKE, COUNTDOWN), train=150, test=30, demonstrations=20, noise=0.3)
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        curate(plan, tmp_path / name, workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "again") == contents(tmp_path / "two")
    names = {"train.parquet", "test.parquet", "sft.parquet", "difficulty.svg", "curation.json"}
    assert set(contents(tmp_path / "one")) == names


def test_another_seed_gives_other_rows(tmp_path: Path) -> None:
    first, second = (made(tmp_path / str(seed), LAKE, seed=seed) for seed in (0, 10_000))
    layouts = [{row["extra_info"]["layout"] for row in rows} for rows in (first, second)]
    assert layouts[0] != layouts[1]


@pytest.mark.parametrize("component", [SOKOBAN, LAKE, COUNTDOWN], ids=lambda c: c.env_name)
def test_no_layout_is_in_two_rows_and_the_sides_stay_the_same_for_any_data_set(
    tmp_path: Path, component: Component
) -> None:
    layouts: dict[str, set[str]] = {"train": set(), "test": set()}
    for seed in (0, 300):
        curate(CurationPlan((component,), train=200, test=50, seed=seed), tmp_path)
        for split, seen in layouts.items():
            rows = rows_in(tmp_path / f"{split}.parquet")
            found = {row["extra_info"]["layout"] for row in rows}
            assert len(found) == len(rows) == {"train": 200, "test": 50}[split]
            seen |= found
    assert not layouts["train"] & layouts["test"]


@pytest.mark.parametrize("component", [SOKOBAN, LAKE, COUNTDOWN], ids=lambda c: c.env_name)
@pytest.mark.parametrize("with_layout", [False, True])
def test_a_row_says_all_that_its_episode_needs(
    tmp_path: Path, component: Component, with_layout: bool
) -> None:
    for row in made(tmp_path, component, with_layout=with_layout, system_prompt="Win."):
        extra = row["extra_info"]
        kwargs = orjson.loads(extra["env_kwargs"])
        env_id = interface.initialize_environment(extra["env_name"], extra["seed"], kwargs)
        try:
            observation, _ = interface.reset(env_id)
            assert row["prompt"] == [{"role": "system", "content": "Win."}, *observation]
            assert orjson.loads(extra["tools"]) == interface.get_tools_schema_openai(env_id)
        finally:
            interface.close_environment(env_id)
        assert row["agent_name"] == "env_agent"
        assert row["data_source"] == extra["env_name"]
        names = {"room_setup", "desc", "target"}
        assert bool(names & kwargs.keys()) is with_layout
    assert [row["extra_info"]["index"] for row in rows_in(tmp_path / "train.parquet")] == list(range(20))


def test_a_written_layout_does_not_depend_on_its_seed(tmp_path: Path) -> None:
    for row in made(tmp_path, SOKOBAN, with_layout=True)[:5]:
        kwargs = orjson.loads(row["extra_info"]["env_kwargs"])
        env_id = interface.initialize_environment("sokoban", 999_999, kwargs)
        assert interface.reset(env_id)[0] == row["prompt"]
        interface.close_environment(env_id)


@pytest.mark.parametrize(
    ("component", "measure"),
    [
        (Component("sokoban", 1.0, {"dim_room": [7, 7], "num_boxes": 2}, None, 4, 7), "auto"),
        (Component("sokoban", 1.0, SOKOBAN.env_kwargs, None, 3, 9), "actions"),
        (Component("frozen_lake", 1.0, {"size": 5, "random_start_and_goal": True}, None, 3, 5), "auto"),
        (Component("countdown", 1.0, {"num_numbers": [3, 6]}, None, 4, 5), "auto"),
    ],
)
def test_difficulties_are_kept_within_the_bounds(tmp_path: Path, component: Component, measure: Any) -> None:
    rows = made(tmp_path, component, measure=measure)
    rows += rows_in(tmp_path / "test.parquet")
    found = {row["extra_info"]["difficulty"] for row in rows}
    assert component.min_difficulty is not None
    assert component.max_difficulty is not None
    assert component.min_difficulty <= min(found) < max(found) <= component.max_difficulty
    report = orjson.loads((tmp_path / "curation.json").read_bytes())
    assert report["components"][0]["passed_over"]["difficulty"] > 0


def test_a_mixture_has_its_weights_everywhere(tmp_path: Path) -> None:
    rows = made(tmp_path, Component("frozen_lake", 3.0), Component("countdown", 1.0), train=80, test=8)
    names = [row["data_source"] for row in rows]
    assert names.count("verl_env/frozen_lake-v1") == 60
    for start in range(0, 80, 8):
        assert 5 <= names[start : start + 8].count("verl_env/frozen_lake-v1") <= 7
    tests = [row["data_source"] for row in rows_in(tmp_path / "test.parquet")]
    assert tests.count("verl_env/frozen_lake-v1") == 6


def test_one_environment_may_be_mixed_with_itself_and_still_repeats_no_layout(tmp_path: Path) -> None:
    shown = [Component("frozen_lake", 1.0, {"size": 4, "cell_separator": mark}) for mark in ("", " ")]
    rows = made(tmp_path, *shown, train=100)
    assert len({row["extra_info"]["layout"] for row in rows}) == 100
    assert {orjson.loads(row["extra_info"]["env_kwargs"])["cell_separator"] for row in rows} == {"", " "}


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [(10, [1, 1, 1], [4, 3, 3]), (0, [1, 2], [0, 0]), (7, [0.5, 0.25, 0.25], [3, 2, 2])],
)
def test_weights_divide_a_number_exactly(total: int, weights: list[float], parts: list[int]) -> None:
    assert apportion(total, weights) == parts


def test_problems_of_ones_own_become_rows(tmp_path: Path) -> None:
    asked = tuple(
        {"task_prompt": f"What is {n} + 1?", "scorer": {"type": "numeric", "answer": n + 1}}
        for n in range(200)
    )
    given = Component("single_turn_chat", 1.0, {"system_prompt": "Calculate."}, asked)
    rows = made(tmp_path, given, train=30, test=4)
    assert len({row["extra_info"]["env_kwargs"] for row in rows}) == 30
    kwargs = orjson.loads(rows[0]["extra_info"]["env_kwargs"])
    assert rows[0]["prompt"] == [
        {"role": "system", "content": "Calculate."},
        {"role": "user", "content": kwargs["task_prompt"]},
    ]


def test_test_rows_can_be_there_a_second_time_to_be_played_greedily(tmp_path: Path) -> None:
    rows = made(tmp_path, LAKE, split="test", test_greedy=True)
    assert [row["extra_info"]["greedy"] for row in rows] == [False] * 5 + [True] * 5
    assert rows[5]["data_source"] == "verl_env/frozen_lake-v1-greedy"
    assert [row["extra_info"]["seed"] for row in rows[:5]] == [row["extra_info"]["seed"] for row in rows[5:]]


def test_repeated_layouts_are_for_training_only_and_on_request(tmp_path: Path) -> None:
    tiny = Component("frozen_lake", 1.0, {"size": 2})
    with pytest.raises(CurationError, match="--repeat-layouts"):
        made(tmp_path, tiny, train=50, test=1, test_share=0.5, patience=500)
    rows = made(tmp_path, tiny, train=50, test=1, test_share=0.5, patience=500, repeat_layouts=True)
    assert len({row["extra_info"]["seed"] for row in rows}) == 50
    tests = {row["extra_info"]["layout"] for row in rows_in(tmp_path / "test.parquet")}
    assert not tests & {row["extra_info"]["layout"] for row in rows}


def test_demonstrations_reach_the_goal_on_layouts_of_the_training_side(tmp_path: Path) -> None:
    made(tmp_path, SOKOBAN, LAKE, COUNTDOWN, demonstrations=20)
    shown = rows_in(tmp_path / "sft.parquet")
    assert all(row["success"] for row in shown)
    trained = {row["prompt"][-1]["content"] for row in rows_in(tmp_path / "train.parquet")}
    assert {row["messages"][0]["content"] for row in shown} <= trained
    for row in shown:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant", *["tool", "assistant"] * ((len(roles) - 2) // 2)]
        assert row["messages"][-1]["content"].startswith('<tool_call>\n{"name": "')


def test_demonstrations_are_written_as_answers_on_request(tmp_path: Path) -> None:
    made(tmp_path, SOKOBAN, COUNTDOWN, demonstrations=20, demonstration_format="answer")
    for row in rows_in(tmp_path / "sft.parquet"):
        assert row["success"]
        roles = [message["role"] for message in row["messages"]]
        assert set(roles) == {"user", "assistant"}
        assert row["messages"][1]["content"].startswith("<answer>")


def test_noise_makes_a_weak_player(tmp_path: Path) -> None:
    plans = [CurationPlan((LAKE,), 100, 0, demonstrations=100, noise=noise) for noise in (0.0, 0.5, 1.0)]
    rates = [curate(plan, tmp_path).success_rate for plan in plans]
    assert rates[0] == 1.0
    assert rates[1] is not None
    assert rates[2] is not None
    assert 0.2 < rates[1] < 0.9
    assert rates[2] < 0.2


def test_an_environment_without_a_solver_has_no_demonstrations(tmp_path: Path) -> None:
    slippery = Component("frozen_lake", 1.0, {"size": 4, "is_slippery": True})
    with pytest.raises(CurationError, match="No solution"):
        made(tmp_path, slippery, demonstrations=1)


def test_picture_shows_both_sides_and_says_when_nothing_is_known(tmp_path: Path) -> None:
    made(tmp_path / "a", SOKOBAN)
    picture = (tmp_path / "a" / "difficulty.svg").read_text()
    assert "train: 20 rows" in picture
    assert "test: 5 rows" in picture
    made(tmp_path / "b", Component("frozen_lake", 1.0, {"size": 4, "is_slippery": True}))
    assert "No difficulty is known" in (tmp_path / "b" / "difficulty.svg").read_text()


def test_unknown_names_and_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnknownEnvNameError):
        made(tmp_path / "new", Component("sokobna"))
    with pytest.raises(InvalidEnvArgumentsError):
        made(tmp_path / "new", Component("sokoban", 1.0, {"boxes": 1}))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options",
    [{"train": 0, "test": 0}, {"train": -1}, {"test_share": 1.0}, {"noise": 2.0}, {"demonstrations": 21}],
)
def test_plans_without_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CurationError):
        CurationPlan((LAKE,), **{"train": 20, "test": 5, **options})


def test_weights_and_files_without_sense_are_refused() -> None:
    with pytest.raises(CurationError):
        Component("sokoban", 0.0)
    with pytest.raises(CurationError):
        Component("sokoban", 1.0, {}, ())
