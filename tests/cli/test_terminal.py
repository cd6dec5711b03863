"""Output for people: texts with brackets, encodings that lack characters, and lines that programs read."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from rich.table import Table
from rich.text import Text

from tests.children import python
from tests.children import run as run_program
from tests.cli.test_api import answering
from verl_agent_env.cli import cli, terminal
from verl_agent_env.cli.terminal import plain_console, print_table

TEXTS = ["[fd00:100::1]:8001", "[up]", "[/think]", "a :dog: b"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize("text", TEXTS)
def test_text_in_brackets_is_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=text, box=None, show_header=False)
    table.add_row(Text("ok", "green"), text)
    print_table(table)
    plain_console().print(text)
    assert capsys.readouterr().out.count(text) == 3


def test_a_table_that_a_program_reads_has_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None, show_header=False)
    long = "word " * 100 + "end"
    table.add_row("first", long)
    table.add_row("second", "short")
    print_table(table)
    first, second = capsys.readouterr().out.splitlines()
    assert long in first
    assert second.endswith("short")


@pytest.mark.parametrize("text", TEXTS)
def test_status_shows_names_and_addresses_as_they_are(text: str) -> None:
    worker = {
        "name": text, "address": text, "pid": 1, "state": "ready", "slots": 4096, "live_envs": 0,
        "incarnation": "a", "started_at": 0.0,
    }  # fmt: skip
    shown = {"map_version": 1, "num_slots": 4096, "nodes": [{"name": text, "workers": [worker]}]}
    with answering(200, body=orjson.dumps(shown)) as (url, _):
        result = run("status", url)
    assert result.output.count(text) == 3


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-9", "utf-8"])
def test_the_encoding_of_the_output_may_lack_characters(encoding: str) -> None:
    finished = python(
        *("-m", "verl_agent_env.cli", "doctor", "--redis", "redis://127.0.0.1:1/"),
        variables={"PYTHONIOENCODING": encoding},
    )
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert "start it there" in finished.stdout


@pytest.mark.parametrize("is_terminal", [True, False])
def test_status_shows_on_a_terminal_alone_that_it_waits(is_terminal: bool) -> None:
    terminal_end, other_end = pty.openpty()
    with (
        answering(404) as (url, _),
        os.fdopen(terminal_end, "rb", 0) as shown,
        os.fdopen(other_end, "wb", 0) as stderr,
    ):
        place = f" 2>{os.ttyname(other_end)}" if is_terminal else ""
        command = f'exec "{sys.executable}" -m verl_agent_env.cli status {url} --json{place}'
        done = run_program("/bin/sh", "-c", command, variables={"TERM": "xterm"})
        stderr.write(b"end")
        told = shown.read(65_536).decode() + done.stderr
    assert done.returncode == 1
    assert orjson.loads(done.stdout)["error"]["code"] == "failed"
    assert ("Asking" in told) == is_terminal


def test_commands_print_by_these_functions_alone() -> None:
    folder = Path(terminal.__file__).parent
    own = [file.name for file in folder.glob("*.py") if " Console(" in file.read_text("utf-8")]
    assert own == ["terminal.py"]


def test_play_and_drain_show_texts_in_brackets() -> None:
    chat = orjson.dumps({"chat_history": [{"role": "user", "content": "[up] or [/x]?"}]}).decode()
    played = CliRunner().invoke(cli, ["play", "single_turn_chat", "--kwargs", chat], input="[/y]\n")
    assert played.exit_code == 0, played.output
    assert "[up] or [/x]?" in played.output
    with answering(404) as (url, _):
        assert "Error: No server" in run("drain", "[/x]", "--url", url).output
