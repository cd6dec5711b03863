"""``verl-agent-env eval``, as a user runs it."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import orjson

from tests.children import cli
from tests.conftest import ServerProcess
from tests.examples.model_server import serving_model

RIGHT = {"role": "assistant", "content": "<action>right</action>"}
LAKE = '{"desc": ["SFG"], "is_slippery": false}'


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return cli("eval", *arguments)


def test_figures_are_printed_and_the_page_written(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "e"
    with serving_model(itertools.repeat(RIGHT), troubles=[429]) as endpoint:
        arguments = [
            *("--url", server.url, "--base-url", f"{endpoint.url}/v1", "--model", "m"),
            *("--env", "frozen_lake", "--env-kwargs", LAKE, "--episodes", "5", "--out", str(out)),
        ]
        first, again, told = run(*arguments), run(*arguments), run(*arguments, "--json")
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert "100.0 % of 5" in first.stdout
    assert "100.0 % of 5" in again.stdout
    assert orjson.loads(told.stdout)["success_rate"] == 1.0
    # The second run had nothing to do.
    assert len(endpoint.requests) == 11
    assert len((out / "episodes.jsonl").read_bytes().splitlines()) == 5
    assert orjson.loads((out / "plan.json").read_bytes())["env_name"] == "frozen_lake"
    assert '"id":"seed-4"' in (out / "episodes.html").read_text("utf-8")


def test_what_is_wrong_is_said_in_one_sentence(server: ServerProcess, tmp_path: Path) -> None:
    with serving_model([], troubles=itertools.repeat(401)) as endpoint:
        common = ["--model", "m", "--base-url", f"{endpoint.url}/v1", "--out", str(tmp_path / "e")]
        refused = run("--url", server.url, "--env", "frozen_lake", *common)
        unknown = run("--url", server.url, "--env", "frozen_lak", *common)
        nobody = run("--url", "http://127.0.0.1:9", "--env", "frozen_lake", *common)
    for ended, words in ((refused, "refuses: status 401"), (unknown, "frozen_lak"), (nobody, "No server")):
        assert ended.returncode == 1
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
