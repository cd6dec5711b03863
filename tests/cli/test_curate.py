"""The command that makes data sets, as a person runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from tests.children import cli
from verl_agent_env.cli.curate import curate_command
from verl_agent_env.integrations.errors import CurationError

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

SMALL = ["--train", "12", "--test", "3", "--workers", "1"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(curate_command, list(arguments))


def test_a_data_set_is_made_and_summed_up(tmp_path: Path) -> None:
    result = run("frozen_lake=2", "countdown", *SMALL, "--out", str(tmp_path / "data"))
    assert result.exit_code == 0, result.output
    assert "verl_env/frozen_lake-v1" in result.output
    assert "train.parquet" in result.output
    sources = parquet.read_table(tmp_path / "data" / "train.parquet")["data_source"].to_pylist()
    assert sources.count("verl_env/frozen_lake-v1") == 8


def test_a_script_reads_what_was_made(tmp_path: Path) -> None:
    out = tmp_path / "data"
    finished = cli("curate", "frozen_lake=2", "countdown", *SMALL, "--out", str(out), "--json")
    assert finished.returncode == 0, finished.stderr
    made = orjson.loads(finished.stdout)
    assert [(part["name"], part["train"]) for part in made["environments"]] == [
        ("verl_env/frozen_lake-v1", 8),
        ("verl_env/countdown-v0", 4),
    ]
    assert str(out / "train.parquet") in made["files"]


def test_arguments_count_for_all_or_for_each(tmp_path: Path) -> None:
    each = ["--env-kwargs", '{"size": 4}', "--env-kwargs", '{"num_numbers": 3}']
    assert run("frozen_lake", "countdown", *SMALL, *each, "--out", str(tmp_path)).exit_code == 0
    kwargs = {
        row["data_source"]: orjson.loads(row["extra_info"]["env_kwargs"])
        for row in parquet.read_table(tmp_path / "train.parquet").to_pylist()
    }
    assert kwargs == {"verl_env/frozen_lake-v1": {"size": 4}, "verl_env/countdown-v0": {"num_numbers": 3}}
    refused = run("sokoban", "frozen_lake", "countdown", *SMALL, *each, "--out", str(tmp_path))
    assert refused.exit_code == 2
    assert "each of the 3" in refused.output


def test_problems_come_from_a_file(tmp_path: Path) -> None:
    puzzles = [{"numbers": [n, n + 1, 2], "target": 2 * n + 3} for n in range(1, 60)]
    file = tmp_path / "puzzles.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, puzzles)))
    result = run("countdown", *SMALL, "--problems", str(file), "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    for row in parquet.read_table(tmp_path / "train.parquet").to_pylist():
        assert orjson.loads(row["extra_info"]["env_kwargs"]) in puzzles


def test_what_is_not_kept_is_said_row_by_row(tmp_path: Path) -> None:
    rows: list[Any] = [{"nums": [n, n + 1, 2], "target": 2 * n + 3} for n in range(1, 60)]
    rows[1:1] = [
        {"nums": [2, 2, 1], "target": 5},
        [1],
        {"nums": [1, 2], "target": 500},
        {"nums": "many", "target": 1},
    ]
    file, report = tmp_path / "puzzles.json", tmp_path / "report.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + orjson.dumps(rows))
    options = [
        "--problems",
        str(file),
        "--report",
        str(report),
        "--test-share",
        "0",
        "--train",
        "40",
        "--test",
        "0",
    ]
    result = run("countdown", *options, "--workers", "1", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "No solution is known of row 4." in result.output
    said = {line["place"]: line for line in map(orjson.loads, report.read_bytes().splitlines())}
    assert said["row 2"]["reason"] == "same layout"
    assert "row 1" in said["row 2"]["detail"]
    assert (said["row 3"]["reason"], said["row 5"]["reason"]) == ("refused", "refused")
    assert (said["row 4"]["reason"], said["row 4"]["is_kept"]) == ("no known solution", True)
    assert said["row 63"]["reason"] == "not needed"


def test_the_report_is_written_as_well_when_there_are_too_few(tmp_path: Path) -> None:
    file, report = tmp_path / "puzzles.jsonl", tmp_path / "report.jsonl"
    file.write_text('{"nums": [1, 2], "target": 3}\nnothing\n')
    options = ["--problems", str(file), "--report", str(report), "--out", str(tmp_path)]
    assert isinstance(run("countdown", *SMALL, *options).exception, CurationError)
    (line,) = map(orjson.loads, report.read_bytes().splitlines())
    assert (line["place"], line["reason"]) == ("line 2", "refused")


def test_the_report_makes_its_folder_and_never_takes_the_place_of_the_problems(tmp_path: Path) -> None:
    file, out = tmp_path / "puzzles.jsonl", tmp_path / "new"
    file.write_text('{"nums": [1, 2], "target": 3}\n')
    options = ["--problems", str(file), "--out", str(out)]
    few = run("countdown", *SMALL, *options, "--report", str(out / "report.jsonl")).exception
    assert isinstance(few, CurationError)
    assert "passed over" not in str(few)
    assert (out / "report.jsonl").read_bytes() == b""
    assert run("countdown", *SMALL, *options, "--report", str(file)).exit_code == 2
    assert file.read_text() == '{"nums": [1, 2], "target": 3}\n'


@pytest.mark.parametrize("arguments", [["--env-kwargs", "{"], ["--env-kwargs", "[]"], ["--workers", "0"]])
def test_options_without_sense_are_usage_errors(arguments: list[str], tmp_path: Path) -> None:
    assert run("sokoban", *arguments, "--out", str(tmp_path)).exit_code == 2
    assert run("sokoban=much", "--out", str(tmp_path)).exit_code == 2


def test_too_few_problems_are_said_with_what_helps(tmp_path: Path) -> None:
    options = ["--env-kwargs", '{"size": 2}', "--patience", "300", "--out", str(tmp_path)]
    result = run("frozen_lake", *SMALL, *options)
    assert isinstance(result.exception, CurationError)
    assert "--repeat-layouts" in str(result.exception)
