"""The commands that play, check and list environments, as a person runs them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from tests.children import cli as cli_process
from verl_agent_env.cli import cli

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
