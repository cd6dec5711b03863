"""Problems of one's own, in the forms that data sets have."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verl_agent_env.envs.registry import default_registry
from verl_agent_env.integrations.datasets import Component, CurationPlan, curate
from verl_agent_env.integrations.datasets.problem_files import problems_of, read_problems
from verl_agent_env.integrations.errors import CurationError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
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
        ("countdown", {"nums": "[3, 5 ,7]", "target": "22"}, PUZZLE),
        ("countdown", {"nums": "(3, 5, 7)", "target": 22}, PUZZLE),
        ("countdown", {"nums": str(np.array([3, 5, 7])), "target": 22}, PUZZLE),
        ("countdown", {"reward_model": json.dumps({"ground_truth": {"target": 22, "numbers": [3, 5, 7]}})}, PUZZLE),
        ("countdown", {"extra_info": json.dumps({"env_kwargs": PUZZLE}), "target": 1}, PUZZLE),
        ("countdown", {**PUZZLE, "max_steps": None, "env_kwargs": None, "question": "?"}, PUZZLE),
        ("frozen_lake", {"size": 4, "max_steps": None, "question": None}, {"size": 4}),
        ("sokoban", {"level": LEVEL.split("\n")}, {"room": LEVEL}),
        ("sokoban", {"room_fixed": json.dumps(FIXED), "room_state": np.array(STATE, float)}, {"room_setup": {**SETUP, "box_mapping": None}}),
        ("sokoban", {"room_setup": {**SETUP, "box_mapping": [{"key": [1, 3], "value": [1, 2]}]}}, {"room_setup": {**SETUP, "box_mapping": {"(1, 3)": [1, 2]}}}),
        ("single_turn_chat", {"question": "Who?", "answer": ["Ada", "#### Eve"]}, {"task_prompt": "Who?", "scorer": {"type": "exact_match", "answer": ["Ada", "Eve"]}}),
        ("single_turn_chat", {"question": "1 + 1?", "answer": np.array(["2"])}, ASKED),
        ("single_turn_chat", {"prompt": json.dumps([{"role": "user", "content": "1 + 1?"}]), "reward_model": '{"ground_truth": 2}'}, {**ASKED, "chat_history": []}),
        ("single_turn_chat", {"prompt": "[1] + 1?", "answer": "2"}, {**ASKED, "task_prompt": "[1] + 1?"}),
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
    assert tuple(problem) == ("row 1", kwargs, "")
    default_registry().kind(env_name).validate(problem.env_kwargs or {})


@pytest.mark.parametrize(
    ("env_name", "row", "words"),
    [
        ("countdown", {"nums": "3 5 7", "target": 1}, "no list"),
        ("countdown", {"nums": [3, "x"], "target": 1}, "'x' is no whole number"),
        ("countdown", {"nums": [3, 2.5], "target": 1}, "2.5 is no whole number"),
        ("countdown", {"nums": [3, True], "target": 1}, "True is no whole number"),
        ("countdown", {"question": "?", "answer": "1"}, "'question', 'answer'"),
        ("countdown", {"nums": "[3, x]", "target": 1}, "'x' is no whole number"),
        ("sokoban", {"level": [1]}, "'level'"),
        ("single_turn_chat", {"question": "Who?", "answer": {"text": ["Ada"]}}, "neither text nor a number"),
        ("single_turn_chat", {"question": "Who?", "answer": float("nan")}, "neither text nor a number"),
        ("single_turn_chat", {"question": "Who?", "answer": []}, "empty"),
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


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("puzzles.jsonl.bz2", bz2.compress),
        ("puzzles.jsonl.xz", lzma.compress),
        ("puzzles.jsonl.zst", lambda content: pyarrow.compress(content, "zstd", asbytes=True)),
        ("puzzles", gzip.compress),
    ],
)
def test_what_is_compressed_is_known_by_its_first_bytes(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(json.dumps(PUZZLE).encode()))
    assert [problem.env_kwargs for problem in read_problems(path, "countdown")] == [PUZZLE]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'nums,target,max_steps\n"[3, 5, 7]",22,\n"[1, 2]",3,4\n'),
        ("b.csv", "nums;target;max_steps\r\n[3, 5, 7];22;\r\n[1, 2];3;4\r\n"),
        ("c.tsv", "nums\ttarget\tmax_steps\n[3 5 7]\t22\t\n[1 2]\t3\t4\n"),
    ],
)
def test_csv_is_read_with_what_separates_its_fields(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8-sig"))
    first, second = read_problems(path, "countdown")
    assert tuple(first) == ("line 2", PUZZLE, "")
    assert tuple(second) == ("line 3", {"max_steps": "4", "numbers": [1, 2], "target": 3}, "")
    default_registry().kind("countdown").validate(second.env_kwargs or {})


def test_a_field_of_csv_may_have_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "asked.csv"
    path.write_text('question,answer\n"1 +\n1?",2\n2,3,4\nWho?,\n')
    read, too_long, too_short = read_problems(path, "single_turn_chat")
    assert read == ("line 2", {**ASKED, "task_prompt": "1 +\n1?"}, "")
    assert (too_long.place, "more fields" in too_long.reason) == ("line 4", True)
    assert (too_short.place, "'question'" in too_short.reason) == ("line 5", True)


@pytest.mark.parametrize("name", ["levels", "levels.lvl", "levels.txt"])
def test_levels_are_known_without_the_suffix_and_rows_in_spite_of_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(f"; 0\n{LEVEL}\n")
    assert [problem.env_kwargs for problem in read_problems(path, "sokoban")] == [{"room": LEVEL}]
    path.write_text(json.dumps(PUZZLE))
    assert [problem.env_kwargs for problem in read_problems(path, "countdown")] == [PUZZLE]


def test_a_column_of_csv_may_hold_levels(tmp_path: Path) -> None:
    path = tmp_path / "levels.csv"
    path.write_text(f'name,level\nfirst,"{LEVEL}"\n')
    assert [problem.env_kwargs for problem in read_problems(path, "sokoban")] == [{"room": LEVEL}]


def test_one_object_over_several_lines_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "puzzle.json"
    path.write_text(json.dumps(PUZZLE, indent=2))
    assert [problem.env_kwargs for problem in read_problems(path, "countdown")] == [PUZZLE]


def test_parquet_is_known_by_its_first_bytes_too(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001"
    parquet.write_table(pyarrow.Table.from_pylist([PUZZLE]), path)
    assert [problem.env_kwargs for problem in read_problems(path, "countdown")] == [PUZZLE]


def test_parquet_is_read_as_arrow_writes_it(tmp_path: Path) -> None:
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
        ("x.jsonl.xz", lzma.compress(b"{}" * 99)[:20]),
        ("x.jsonl.bz2", bz2.compress(b"{}" * 99)[:20]),
        ("x.jsonl.zst", b"\x28\xb5\x2f\xfd no more"),
        ("x.csv", b'nums,target\n"[1'),
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


class Pandas:
    """Gives columns one after the other, as a ``pandas.DataFrame`` does."""

    def __iter__(self) -> Iterator[str]:
        return iter(["nums", "target"])

    def itertuples(self) -> None: ...

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [PUZZLE, PUZZLE]


@pytest.mark.parametrize("table", [pyarrow.Table.from_pylist([PUZZLE, PUZZLE]), Pandas()])
def test_a_table_gives_its_rows(table: Any) -> None:
    assert [problem.env_kwargs for problem in problems_of(table, "countdown")] == [PUZZLE, PUZZLE]


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
