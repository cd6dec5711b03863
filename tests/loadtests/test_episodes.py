from __future__ import annotations

from typing import Any

import orjson
import pytest

from loadtests.options import Stage, parse_stages, parse_watch
from loadtests.users.episodes import KINDS, Episode, Mix, initialize_body, step_body
from verl_agent_env import interface


def test_a_step_sent_again_is_the_same_step() -> None:
    episode = Episode(KINDS["sokoban"], "id", [])
    first = orjson.dumps(step_body([episode]))
    assert orjson.dumps(step_body([episode])) == first
    episode.advance()
    assert step_body([episode])["seqs"] == [1]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_move_is_one_that_the_environment_takes(name: str) -> None:
    kind = KINDS[name]
    env_id = interface.initialize_environment(kind.env_name, seed=5, env_kwargs=kind.env_kwargs)
    observation, _ = interface.reset(env_id)
    episode = Episode(kind, env_id, observation)
    for _ in range(5):
        action = orjson.loads(orjson.dumps(episode.action))
        _, _, terminated, truncated, info = interface.step(env_id, action)
        assert info["action_is_valid"]
        episode.advance()
        if terminated or truncated:
            break
    interface.close_environment(env_id)


def test_equations_use_the_numbers_of_the_puzzle() -> None:
    shown = [{"role": "user", "content": "Use each number once.\nNumbers: 31, 8, 9\nTarget: 72"}]
    action: Any = orjson.loads(orjson.dumps(Episode(KINDS["countdown"], "id", shown).action))
    equation = orjson.loads(action["tool_calls"][0]["function"]["arguments"])["equation"]
    assert sorted(number for number in equation.split() if number.isdigit()) == ["31", "8", "9"]


def test_a_mix_draws_only_what_has_weight() -> None:
    mix = Mix.parse("sokoban=2, countdown=0")
    assert {kind.env_name for kind in mix.draw(50)} == {"sokoban"}
    assert initialize_body(mix.draw(3), "run")["env_names"] == ["sokoban"] * 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "none of"),
        ("chess=1", "none of"),
        ("sokoban=-1", "negative"),
        ("sokoban=0", "positive"),
        ("sokoban=much", "much"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Mix.parse(text)


def test_stages_are_read_in_order() -> None:
    assert parse_stages("10:1.5,20:3") == [Stage(10, 1.5), Stage(20, 3.0)]


@pytest.mark.parametrize("text", ["", "10", "0:5", "10:-1", "ten:5"])
def test_stages_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"SECONDS|'ten'"):
        parse_stages(text)


def test_processes_to_watch_are_read_by_name() -> None:
    assert parse_watch("nodes=12+14,nginx=20") == {"nodes": [12, 14], "nginx": [20]}
    assert parse_watch("") == {}


@pytest.mark.parametrize("text", ["nginx", "nginx=", "nginx=some"])
def test_processes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"PID|invalid"):
        parse_watch(text)
