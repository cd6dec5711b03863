"""Problems of one's own, in the forms that data sets have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verl_agent_env.envs.registry import default_registry
from verl_agent_env.integrations.datasets import Component, CurationPlan, curate
from verl_agent_env.integrations.datasets.problem_files import problems_of, read_problems
from verl_agent_env.integrations.errors import CurationError

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

FIXED = [[0, 0, 0, 0, 0], [0, 1, 1, 2, 0], [0, 0, 0, 0, 0]]
STATE = [[0, 0, 0, 0, 0], [0, 5, 4, 2, 0], [0, 0, 0, 0, 0]]
SETUP = {"room_fixed": FIXED, "room_state": STATE, "box_mapping": {"(1, 3)": [1, 2]}}
LEVEL = "#####\n#@$.#\n#####"
PUZZLE = {"numbers": [3, 5, 7], "target": 22}
ASKED = {"task_prompt": "1 + 1?", "scorer": {"type": "numeric", "answer": "2"}}


@pytest.mark.parametrize(
    ("env_name", "row", "kwargs"),
    [
        ("countdown", PUZZLE, PUZZLE),
        ("countdown", {"nums": [3, 5, 7], "target": 22}, PUZZLE),
        ("countdown", {"nums": [3.0, "5", 7], "target": 22.0}, PUZZLE),
        ("countdown", {**PUZZLE, "max_steps": 3}, {**PUZZLE, "max_steps": 3}),
        ("countdown_tinyzero", {"nums": [3, 5, 7], "target": 22, "data_source": "x"}, PUZZLE),
        ("countdown", {"question": "Use 3, 5, 7 …", "answer": "3*5+7", "metadata": {**PUZZLE, "expression": "3*5+7"}}, PUZZLE),
        ("countdown", {"prompt": [], "reward_model": {"style": "rule", "ground_truth": PUZZLE}}, PUZZLE),
        ("countdown", {"env_kwargs": json.dumps(PUZZLE)}, PUZZLE),
        ("countdown", {"prompt": [], "extra_info": {"env_kwargs": json.dumps(PUZZLE), "seed": 1}}, PUZZLE),
        ("sokoban", {"room_setup": SETUP}, {"room_setup": SETUP}),
        ("sokoban", {"room_setup": json.dumps(SETUP)}, {"room_setup": SETUP}),
        ("sokoban", SETUP, {"room_setup": SETUP}),
        ("sokoban", {"room_setup": {**SETUP, "box_mapping": {"(1, 3)": [1, 2], "(2, 2)": None}}}, {"room_setup": SETUP}),
        ("sokoban", {"room_setup": {**SETUP, "box_mapping": [["(1, 3)", [1, 2]]]}}, {"room_setup": SETUP}),
        ("sokoban", {"room_setup": {**SETUP, "box_mapping": [[[1, 3], [1, 2]]]}}, {"room_setup": SETUP}),
        ("sokoban", {"room_setup": {**SETUP, "box_mapping": json.dumps(SETUP["box_mapping"])}}, {"room_setup": SETUP}),
        ("sokoban", {"room_setup": {**SETUP, "box_mapping": {"(2, 2)": None}}}, {"room_setup": {**SETUP, "box_mapping": None}}),
        ("countdown", {"nums": np.array([3, 5, 7]), "target": np.int64(22)}, PUZZLE),
        ("countdown", {"nums": [" 3", "5.0", "٧"], "target": "22."}, PUZZLE),
        ("sokoban", {"room_setup": json.dumps(SETUP).encode()}, {"room_setup": SETUP}),
        ("sokoban", {"room_setup": {**SETUP, "room_fixed": np.array(FIXED), "room_state": np.array([*map(np.array, STATE), None], dtype=object)[:-1]}}, {"room_setup": SETUP}),
        ("sokoban", {"level": LEVEL}, {"room": LEVEL}),
        ("frozen_lake", {"desc": ["SF", "FG"]}, {"desc": ["SF", "FG"]}),
        ("frozen_lake", {"desc": "SF\nFG"}, {"desc": ["SF", "FG"]}),
        ("frozen_lake", {"desc": [["S", "F"], ["F", "G"]]}, {"desc": ["SF", "FG"]}),
        ("single_turn_chat", {"question": "1 + 1?", "answer": "2"}, ASKED),
        ("single_turn_chat", {"question": "1 + 1?", "answer": "It is one more than one.\n#### 2"}, ASKED),
        ("single_turn_chat", {"prompt": [{"role": "user", "content": "1 + 1?"}], "reward_model": {"ground_truth": "2"}}, {**ASKED, "chat_history": []}),
        ("single_turn_chat", {"question": "Who?", "answer": "Ada"}, {"task_prompt": "Who?", "scorer": {"type": "exact_match", "answer": "Ada"}}),
    ],
)  # fmt: skip
def test_rows_become_arguments_that_the_environment_takes(
    env_name: str, row: Any, kwargs: dict[str, Any]
) -> None:
    (problem,) = problems_of([row], env_name)
    assert problem == ("row 1", kwargs, "")
    default_registry().kind(env_name).validate(kwargs)


@pytest.mark.parametrize(
    ("env_name", "row", "words"),
    [
        ("countdown", {"nums": "3 5 7", "target": 1}, "no list"),
        ("countdown", {"nums": [3, "x"], "target": 1}, "'x' is no whole number"),
        ("countdown", {"nums": [3, 2.5], "target": 1}, "2.5 is no whole number"),
        ("countdown", {"nums": [3, True], "target": 1}, "True is no whole number"),
        ("countdown", {"question": "?", "answer": "1"}, "'question', 'answer'"),
        ("countdown", {}, "nothing"),
        ("countdown", [1], "no object"),
        ("sokoban", {"room_setup": "{"}, "room_setup is no JSON"),
        ("sokoban", {"room_setup": {**SETUP, "box_mapping": [1]}}, "box_mapping"),
        ("countdown", {"env_kwargs": [1]}, "env_kwargs is no object"),
        ("countdown", {"nums": [np.float32(3.7)], "target": 1}, "no whole number"),
        ("countdown", {"nums": ["1_0"], "target": 1}, "no whole number"),
        ("frozen_lake", {"desc": 5}, "type"),
        ("single_turn_chat", {"prompt": [], "answer": "2"}, "type"),
        ("single_turn_chat", {"prompt": [5], "answer": "2"}, "type"),
        ("single_turn_chat", {"question": 5, "answer": "2"}, "type"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(env_name: str, row: Any, words: str) -> None:
    (problem,) = problems_of([row], env_name)
    assert problem.env_kwargs is None
    assert words in problem.reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("as_list", [False, True])
def test_json_is_read_as_lines_and_as_a_list_in_any_unicode(
    tmp_path: Path, encoding: str, as_list: bool
) -> None:
    path = tmp_path / "puzzles.json"
    rows = [PUZZLE, {"nums": [1, 2], "target": 3}]
    text = json.dumps(rows, indent=1) if as_list else "\n\n".join(map(json.dumps, rows))
    path.write_bytes(text.encode(encoding))
    problems = read_problems(path, "countdown")
    assert [problem.env_kwargs for problem in problems] == [PUZZLE, {"numbers": [1, 2], "target": 3}]
    assert [problem.place for problem in problems] == (
        ["row 1", "row 2"] if as_list else ["line 1", "line 3"]
    )


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_lines_end_as_on_any_system_and_may_be_compressed(tmp_path: Path, line_end: str) -> None:
    text = line_end.join(["", json.dumps(PUZZLE), "", json.dumps({"nums": [1, 2], "target": 3}), ""])
    (tmp_path / "puzzles.jsonl").write_bytes(text.encode("utf-8-sig"))
    (tmp_path / "puzzles.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "levels.txt.gz").write_bytes(
        gzip.compress(f"; 0\n{LEVEL}\n".replace("\n", line_end).encode())
    )
    for name in ("puzzles.jsonl", "puzzles.jsonl.gz"):
        assert [problem.place for problem in read_problems(tmp_path / name, "countdown")] == [
            "line 2",
            "line 4",
        ]
    (level,) = read_problems(tmp_path / "levels.txt.gz", "sokoban")
    assert level.env_kwargs == {"room": LEVEL}


def test_one_object_over_several_lines_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "puzzle.json"
    path.write_text(json.dumps(PUZZLE, indent=2))
    assert [problem.env_kwargs for problem in read_problems(path, "countdown")] == [PUZZLE]


def test_parquet_is_known_by_its_first_bytes_too(tmp_path: Path) -> None:
    import pyarrow

    path = tmp_path / "train-00000-of-00001"
    parquet.write_table(pyarrow.Table.from_pylist([PUZZLE]), path)
    assert [problem.env_kwargs for problem in read_problems(path, "countdown")] == [PUZZLE]


def test_parquet_is_read_as_arrow_writes_it(tmp_path: Path) -> None:
    import pyarrow

    other = {"room_fixed": FIXED, "room_state": STATE, "box_mapping": {"(1, 1)": [1, 2]}}
    path = tmp_path / "rooms.parquet"
    # Arrow gives each row the keys of all rows.
    parquet.write_table(pyarrow.Table.from_pylist([{"room_setup": SETUP}, {"room_setup": other}]), path)
    assert [problem.env_kwargs for problem in read_problems(path, "sokoban")] == [
        {"room_setup": SETUP},
        {"room_setup": other},
    ]


def test_levels_in_text_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "000.txt"
    path.write_text(f"; 0\n{LEVEL}\n\n; 1\n{LEVEL}\nTitle: last\n{LEVEL}")
    problems = read_problems(path, "sokoban")
    assert [problem.place for problem in problems] == [
        "level 1 (line 2)",
        "level 2 (line 7)",
        "level 3 (line 11)",
    ]
    assert {str(problem.env_kwargs) for problem in problems} == {str({"room": LEVEL})}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", b"[1,"),
        ("x.parquet", b"PAR0"),
        ("x.jsonl", b"\xff\xff\xff"),
        ("x.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:20]),
    ],
)
def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CurationError, match=str(path)):
        read_problems(path, "countdown")


class Dataset:
    """Gives rows as a ``datasets.Dataset`` does."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield PUZZLE
        yield {"nums": [1, 2], "target": 3}


def test_a_data_set_is_taken_in_python(tmp_path: Path) -> None:
    component = Component("countdown", problems=Dataset())
    made = curate(CurationPlan((component,), train=2, test=0, test_share=0.0), tmp_path)
    assert [problem.place for problem in made.chosen[0].train] == ["row 1", "row 2"]


@pytest.mark.parametrize("splits", [{"train": Dataset()}, "puzzles.jsonl", 5])
def test_what_is_no_rows_is_refused(splits: Any) -> None:
    with pytest.raises(CurationError, match="choose a split"):
        Component("countdown", problems=splits)


@pytest.mark.parametrize(("share", "rows"), [(0.0, "train"), (1.0, "test")])
def test_all_rows_can_go_to_one_split(tmp_path: Path, share: float, rows: str) -> None:
    component = Component("countdown", problems=Dataset())
    counts: dict[str, Any] = {"train": 0, "test": 0, rows: 2}
    made = curate(CurationPlan((component,), **counts, test_share=share), tmp_path)
    assert len(made.chosen[0].of(rows)) == 2  # type: ignore[arg-type]
    with pytest.raises(CurationError, match="ask for --"):
        CurationPlan((component,), train=1, test=1, test_share=share)
