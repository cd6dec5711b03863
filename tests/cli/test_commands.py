"""The commands that play, check and list environments, as a person runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from tests.children import cli as cli_process
from tests.children import python
from tests.children import run as run_program
from verl_agent_env.cli import cli
from verl_agent_env.envs.catalogue.families import FAMILIES

ROOM = '{"dim_room": [6, 6], "num_boxes": 1}'


def run(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=typed)


def test_list_names_every_environment_with_its_description() -> None:
    result = run("list", "--verbose")
    assert result.exit_code == 0
    for word in ("verl_env/sokoban-v0", "verl_env/frozen_lake-v1", "dim_room"):
        assert word in result.output


def test_solver_solves_and_says_so() -> None:
    result = run("play", "sokoban", "--seed", "3", "--kwargs", ROOM, "--policy", "solver")
    assert result.exit_code == 0
    assert "solved" in result.output
    assert "not solved" not in result.output


def test_random_policy_plays_the_same_game_for_the_same_seed() -> None:
    games = [
        run("play", "frozen_lake", "--seed", "5", "--policy", "random", "--episodes", "2") for _ in range(2)
    ]
    assert games[0].exit_code == 0
    assert games[0].output == games[1].output
    assert "2 episodes, mean reward" in games[0].output


def test_a_person_plays_with_words_and_leaves_with_quit() -> None:
    result = run("play", "frozen_lake", "--kwargs", '{"desc": ["SFG"]}', typed="jump\nright\nquit\n")
    assert result.exit_code == 0
    assert "Invalid action" in result.output
    assert "Left the game." in result.output


def test_end_of_input_leaves_the_game() -> None:
    result = run("play", "frozen_lake", typed="")
    assert result.exit_code == 0
    assert "Left the game." in result.output


@pytest.mark.parametrize("kwargs", ["{", "[1]"])
def test_arguments_that_are_no_json_object_are_refused(kwargs: str) -> None:
    result = run("play", "frozen_lake", "--kwargs", kwargs)
    assert result.exit_code == 2
    assert "--kwargs" in result.output


def test_a_slippery_lake_has_no_solver() -> None:
    result = run("play", "frozen_lake", "--kwargs", '{"is_slippery": true}', "--policy", "solver")
    assert result.exit_code == 1
    assert "No solution is known" in result.output


def test_check_env_passes_a_sound_environment_and_prints_its_cost() -> None:
    result = run("check-env", "frozen_lake", "--steps", "10")
    assert result.exit_code == 0, result.output
    for word in ("snapshots", "µs per step", "bytes per instance"):
        assert word in result.output


def test_check_env_without_a_name_is_a_usage_error() -> None:
    assert run("check-env").exit_code == 2


def test_an_unknown_name_is_one_sentence_and_exit_code_one() -> None:
    finished = cli_process("play", "sokobn")
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert "Did you mean" in finished.stderr


def test_help_tells_of_every_command() -> None:
    result = run("--help")
    for command in ("serve", "play", "check-env", "list"):
        assert command in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_given_their_completion(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_VERL_AGENT_ENV_COMPLETE" in result.output


def test_a_completed_word_is_a_command() -> None:
    variables = {
        "_VERL_AGENT_ENV_COMPLETE": "bash_complete",
        "COMP_WORDS": "verl-agent-env ser",
        "COMP_CWORD": "1",
    }
    assert cli_process(variables=variables).stdout.split() == ["plain,serve"]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("serve --log-level w", ["plain,warning"]),
        ("serve --slots 4", ["plain,4096"]),
        ("serve --tls-cert /etc/", ["file,/etc/"]),
        ("serve --trusted-", ["plain,--trusted-proxy", "plain,--trusted-proxies"]),
        ("envs --tag imag", ["plain,images"]),
    ],
)
def test_a_completed_value_is_one_that_the_option_takes(words: str, completed: list[str]) -> None:
    assert completions(words) == completed


def completions(words: str) -> list[str]:
    """What bash is told that the last of these words may become."""
    variables = {
        "_VERL_AGENT_ENV_COMPLETE": "bash_complete",
        "COMP_WORDS": f"verl-agent-env {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    return cli_process(variables=variables).stdout.split()


def fault_of(command: str, *, limit: str = "") -> str:
    """The one sentence with which a command fails, run by a shell under a limit."""
    program = f'{limit}exec "{sys.executable}" -m verl_agent_env.cli {command}'
    finished = run_program("/bin/sh", "-c", program)
    assert finished.returncode == 1
    (sentence,) = finished.stderr.splitlines()
    return sentence


def test_a_limit_of_files_that_is_too_low_for_a_server_is_one_sentence() -> None:
    fault = fault_of("serve --port 0", limit="ulimit -n 12 && ")
    assert fault.startswith("Error: This process may open 12 files")


def test_too_little_memory_is_one_sentence(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    with tokens.open("wb") as file:
        # Without data: it takes no room on the disk.
        file.truncate(8_000_000_000)
    fault = fault_of(f"serve --auth-file {tokens}", limit="ulimit -v 4000000 && ")
    assert fault.startswith("Error: There is not enough memory")


def test_a_completed_name_is_an_environment() -> None:
    assert "plain,sokoban" in completions("play soko")


@pytest.mark.parametrize(
    "command",
    [
        ["envs", "--tag", "images"],
        ["envs", "--count-tags"],
        ["list"],
        ["check-env", "frozen_lake", "countdown", "--steps", "3"],
    ],
    ids=" ".join,
)
def test_scripts_read_json_and_nothing_else(command: list[str]) -> None:
    finished = cli_process(*command, "--json")
    assert finished.returncode == 0, finished.stderr
    found = orjson.loads(finished.stdout)
    if command[0] == "check-env":
        assert [report["env_name"] for report in found] == [
            "verl_env/frozen_lake-v1",
            "verl_env/countdown-v0",
        ]
        assert all(result["passed"] for report in found for result in report["results"])
    elif command[-1] == "--count-tags":
        assert found["solver"] > 1
    else:
        assert "verl_env/sokoban-v0" in {row["name"] for row in found}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["status", "--json", "nowhere"], "failed"),
        (["check-env", "--json", "nope"], "unknown_env_name"),
        (["check-env", "--json"], "usage"),
        (["envs", "--json", "--nope"], "usage"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_scripts_read_json_of_errors_too(command: list[str], code: str) -> None:
    result = run(*command)
    assert result.exit_code != 0
    error = orjson.loads(result.stdout)["error"]
    assert error["code"] == code
    assert error["detail"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_under_the_output_is_one_sentence() -> None:
    assert fault_of("envs sokoban >/dev/full").startswith("Error: ")


def test_envs_finds_by_words_tags_and_cost_also_what_is_not_installed() -> None:
    by_words = run("envs", "chain", "SUM")
    assert "reasoning_gym/chain_sum" in by_words.output
    assert "reasoning_gym/chess" not in by_words.output
    by_tag = run("envs", "--tag", "images", "--tag", "solver")
    assert "verl_env/sokoban-v0" in by_tag.output
    assert "verl_env/countdown-v0" not in by_tag.output
    cheap = run("envs", "--max-ms", "1000", "verl_env/")
    assert "0 of" in cheap.output


def test_envs_tells_the_extra_of_what_is_missing_and_leaves_it_out_if_asked() -> None:
    family = next((family for family in FAMILIES if not family.is_installed), None)
    if family is None:
        pytest.skip("all packages are installed here")
    name = next(iter(family.specs.values())).name
    assert f"extra {family.extra}" in " ".join(run("envs", name).output.split())
    assert name not in run("envs", "--installed", name).output


def test_envs_counts_tags() -> None:
    result = run("envs", "--count-tags", "verl_env/")
    assert result.exit_code == 0
    assert "multi-turn" in result.output


def test_wrap_writes_an_adapter_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "cart_pole.py"
    result = run("wrap", "CartPole-v1", "--out", str(out), "--name", "acme/cart_pole-v0")
    assert result.exit_code == 0, result.output
    code = "from cart_pole import CartPoleEnv as E; e = E(); e.reset(seed=1); print(e.env_name, e.step('action_1')[1])"
    done = python("-W", "error", "-c", code, variables={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "acme/cart_pole-v0 1.0\n", done.stderr


@pytest.mark.parametrize(("env_id", "cause"), [("NoSuch-v0", "NoSuch"), ("Pendulum-v1", "have names")])
def test_wrap_refuses_what_cannot_be_wrapped(tmp_path: Path, env_id: str, cause: str) -> None:
    out = tmp_path / "adapter.py"
    result = run("wrap", env_id, "--out", str(out))
    assert result.exit_code == 1
    assert cause in result.output
    assert not out.exists()


def test_wrap_overwrites_nothing(tmp_path: Path) -> None:
    out = tmp_path / "mine.py"
    out.write_text("mine")
    assert run("wrap", "CartPole-v1", "--out", str(out)).exit_code == 1
    assert out.read_text() == "mine"
