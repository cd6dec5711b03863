"""The command that makes data sets, as a person runs it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

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
    file.write_text("{}\n[1]\n")
    assert "line 2" in run("countdown", *SMALL, "--problems", str(file), "--out", str(tmp_path)).output


@pytest.mark.parametrize("arguments", [["--env-kwargs", "{"], ["--env-kwargs", "[]"], ["--workers", "0"]])
def test_options_without_sense_are_usage_errors(arguments: list[str], tmp_path: Path) -> None:
    assert run("sokoban", *arguments, "--out", str(tmp_path)).exit_code == 2
    assert run("sokoban=much", "--out", str(tmp_path)).exit_code == 2


def test_too_few_problems_are_said_with_what_helps(tmp_path: Path) -> None:
    options = ["--env-kwargs", '{"size": 2}', "--patience", "300", "--out", str(tmp_path)]
    result = run("frozen_lake", *SMALL, *options)
    assert isinstance(result.exception, CurationError)
    assert "--repeat-layouts" in str(result.exception)
