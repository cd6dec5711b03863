"""The examples, run as a user runs them, with the official SDKs and a model that knows the solution."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, cast

import gymnasium
import httpx
import pytest

import verl_agent_env
from tests.children import ROOT, forked_python
from tests.conftest import ServerProcess, StartServer
from tests.examples.model_server import ModelServer, serving_model
from tests.waiting import HANG_S
from verl_agent_env.envs.base import ChatEnv

assert verl_agent_env

Played = subprocess.CompletedProcess[str]
SEED = 11
ROOM: dict[str, Any] = {"dim_room": [6, 6], "num_boxes": 1}
IN_PROCESS: list[tuple[str, list[str], str, dict[str, Any]]] = [
    ("gpt_play_countdown.py", [], "countdown-v0", {}),
    ("gpt_play_frozen_lake.py", ["--size", "5"], "frozen_lake-v1", {"size": 5, "is_slippery": False}),
    ("gpt_play_sokoban.py", [], "sokoban-v0", {**ROOM, "max_actions_per_turn": 5}),
    ("claude_play_frozen_lake.py", [], "frozen_lake-v1", {"size": 4, "is_slippery": False}),
]


def solution(env_name: str, kwargs: dict[str, Any]) -> list[dict[str, Any]]:
    """What solves the episode of :data:`SEED`."""
    env = cast(ChatEnv, gymnasium.make(f"verl_env/{env_name}", disable_env_checker=True, **kwargs).unwrapped)
    env.reset(seed=SEED)
    found = env.solution()
    env.close()
    assert found
    return cast("list[dict[str, Any]]", found)


def run(
    example: str, *arguments: str, variables: dict[str, str] | None = None, folder: Path = ROOT
) -> Played:
    """The example in a process of its own, without any key but those given."""
    return forked_python(str(ROOT / "examples" / example), *arguments, variables=variables, cwd=folder)


def keys_for(model: ModelServer) -> dict[str, str]:
    """Variables with which both SDKs find the model."""
    return {
        "OPENAI_KEY": "k",
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "ANTHROPIC_KEY": "k",
        "ANTHROPIC_BASE_URL": model.url,
    }


@pytest.mark.parametrize(("example", "arguments", "env_name", "kwargs"), IN_PROCESS)
def test_model_that_knows_the_way_succeeds_despite_troubles_and_a_bad_answer(
    example: str, arguments: list[str], env_name: str, kwargs: dict[str, Any]
) -> None:
    way = solution(env_name, kwargs)
    bad = {"role": "assistant", "content": "I would rather not say."}
    with serving_model([bad, *way], troubles=[429, 500, None]) as model:
        played = run(example, "--seed", str(SEED), *arguments, variables=keys_for(model))
    assert played.returncode == 0, played.stderr
    assert "=== success" in played.stdout
    assert bad["content"] in played.stdout
    assert len(model.requests) == len(way) + 4
    _, last = model.requests[-1]
    # All that was said before goes along, the tools as well.
    assert len(last["messages"]) >= 2 * len(way)
    assert last["tools"]


def test_service_is_played_and_no_environment_stays(start_server: StartServer) -> None:
    server = start_server()
    way = solution("sokoban-v0", ROOM)
    with serving_model(way) as model:
        played = run(
            "gpt_play_sokoban_service.py", "--url", server.url, "--seed", str(SEED), variables=keys_for(model)
        )
    assert played.returncode == 0, played.stderr
    assert "=== success" in played.stdout
    metrics = httpx.get(f"{server.url}/metrics", timeout=HANG_S).text
    assert 'verl_agent_env_live_environments{env_name="verl_env/sokoban-v0"} 0' in metrics.replace(".0", "")


def test_single_turn_is_scored() -> None:
    said = {"role": "assistant", "content": "Six sevens. <answer>42</answer>"}
    with serving_model([said]) as model:
        played = run("gpt_play_single_turn.py", variables=keys_for(model))
    assert "=== success after 1 turns, reward 1" in played.stdout, played.stderr


def test_environment_is_closed_and_told_in_one_sentence_when_the_model_refuses(server: ServerProcess) -> None:
    with serving_model([], troubles=[401]) as model:
        played = run("gpt_play_sokoban_service.py", "--url", server.url, variables=keys_for(model))
    assert played.returncode == 1
    assert played.stderr.startswith("The model did not answer: ")
    assert "Traceback" not in played.stderr


@pytest.mark.parametrize("example", ["gpt_play_countdown.py", "claude_play_frozen_lake.py"])
def test_missing_key_is_said_in_one_sentence(example: str, tmp_path: Path) -> None:
    service = "ANTHROPIC" if example.startswith("claude") else "OPENAI"
    played = run(example, folder=tmp_path)
    assert played.returncode == 1
    assert (
        played.stderr == f"There is no key: set {service}_KEY, or write it into a file of that name here.\n"
    )


def test_key_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "OPENAI_KEY").write_text("from-a-file\n")
    with serving_model([{"role": "assistant", "content": "<answer>42</answer>"}]) as model:
        played = run(
            "gpt_play_single_turn.py", folder=tmp_path, variables={"OPENAI_BASE_URL": f"{model.url}/v1"}
        )
    assert "=== success" in played.stdout, played.stderr


@pytest.mark.parametrize(
    "example", sorted(path.name for path in (ROOT / "examples").glob("gpt_*.py") if "mcp" not in path.name)
)
def test_service_of_ones_own_is_asked_without_a_key(
    example: str, server: ServerProcess, tmp_path: Path
) -> None:
    where = ["--url", server.url] if "service" in example else []
    with serving_model([], troubles=[401]) as model:
        played = run(example, "--base-url", f"{model.url}/v1", "--model", "own", *where, folder=tmp_path)
    assert played.stderr.startswith("The model did not answer: ")
    assert [request["model"] for _, request in model.requests] == ["own"]


def test_server_that_is_not_there_is_said_in_one_sentence() -> None:
    with serving_model([]) as model:
        played = run("gpt_play_sokoban_service.py", "--url", "http://127.0.0.1:9", variables=keys_for(model))
    assert played.returncode == 1
    assert played.stderr.startswith("No server of environments at 'http://127.0.0.1:9'")
