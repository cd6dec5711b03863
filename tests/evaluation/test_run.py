"""Evaluations against a real server: played, interrupted, gone on with, read."""

from __future__ import annotations

import base64
import itertools
import re
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.examples.model_server import serving_model
from tests.waiting import HANG_S
from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.evaluation import (
    ChatModel,
    EvaluatedEpisode,
    EvaluationPlan,
    ModelRefusedError,
    Summary,
    evaluate,
)
from verl_agent_env.evaluation import run as run_module
from verl_agent_env.evaluation.page import write_page
from verl_agent_env.evaluation.run import EPISODES_FILE, open_folder

RIGHT: dict[str, Any] = {"role": "assistant", "content": "<action>right</action>"}
LAKE: dict[str, Any] = {"desc": ["SFG"], "is_slippery": False, "max_steps": 4}
PLAN = EvaluationPlan("m", "frozen_lake", 6, 10, LAKE)


async def played(
    server: ServerProcess, out: Path, said: Any, plan: EvaluationPlan = PLAN, **troubles: Any
) -> list[EvaluatedEpisode]:
    with serving_model(said, **troubles) as endpoint:
        async with AsyncEnvClient(server.url) as client, ChatModel(f"{endpoint.url}/v1", "m") as model:
            return await evaluate(plan, client, model, out, concurrency=3)


async def test_episodes_are_played_with_their_seeds_and_nothing_stays_open(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server()
    episodes = await played(server, tmp_path / "e", itertools.repeat(RIGHT))
    assert [episode.seed for episode in episodes] == list(range(10, 16))
    summary = Summary.of(episodes)
    assert (summary.successes, summary.mean_reward, summary.mean_turns) == (6, 1.0, 2.0)
    assert (summary.prompt_tokens, summary.completion_tokens) == (120, 24)
    lines = (tmp_path / "e" / EPISODES_FILE).read_bytes().splitlines()
    assert sorted(orjson.loads(line)["seed"] for line in lines) == list(range(10, 16))
    async with httpx.AsyncClient(timeout=HANG_S) as http:
        live = (await http.get(f"{server.url}/metrics")).text
    assert 'verl_agent_env_live_environments{env_name="verl_env/frozen_lake-v1"} 0' in live.replace(
        ".0\n", "\n"
    )


async def test_nonsense_is_an_invalid_action_and_no_failure_of_the_server(
    server: ServerProcess, tmp_path: Path
) -> None:
    nonsense = {"role": "assistant", "content": "I would rather not say."}
    episodes = await played(server, tmp_path / "e", itertools.repeat(nonsense))
    assert {episode.outcome for episode in episodes} == {"out_of_turns"}
    assert Summary.of(episodes).invalid_share == 1.0


async def test_interrupted_run_plays_only_what_is_missing(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "e"
    with pytest.raises(ModelRefusedError):
        await played(server, out, itertools.repeat(RIGHT), troubles=[200] * 6 + [401] * 50)
    kept = open_folder(PLAN, out)
    assert 0 < len(kept) < 6
    with (out / EPISODES_FILE).open("ab") as file:
        file.write(b'{"seed": 99, "outc')
    with serving_model(itertools.repeat(RIGHT)) as endpoint:
        async with AsyncEnvClient(server.url) as client, ChatModel(f"{endpoint.url}/v1", "m") as model:
            told: list[int] = []
            episodes = await evaluate(PLAN, client, model, out, on_episode=lambda e: told.append(e.seed))
    assert Summary.of(episodes).successes == 6
    assert sorted(told) == list(range(10, 16))
    assert len(endpoint.requests) == 2 * (6 - len(kept))


async def test_what_could_not_be_played_is_no_failure_of_the_model_and_tried_again(
    server: ServerProcess, tmp_path: Path
) -> None:
    unknown = EvaluationPlan("m", "no_such_lake", 2)
    episodes = await played(server, tmp_path / "e", itertools.repeat(RIGHT), plan=unknown)
    assert {episode.outcome for episode in episodes} == {"not_played"}
    assert "no_such_lake" in episodes[0].error
    assert Summary.of(episodes).played == 0
    assert open_folder(unknown, tmp_path / "e") == {}


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    open_folder(PLAN, tmp_path / "e")
    with pytest.raises(ValueError, match="other arguments"):
        open_folder(EvaluationPlan("another", "frozen_lake", 6, 10, LAKE), tmp_path / "e")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        open_folder(PLAN, tmp_path / "f")


def test_page_shows_every_episode_and_runs_nothing_that_a_model_wrote() -> None:
    attack = "<script>alert(1)</script>"
    call = {"function": {"name": attack, "arguments": attack}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": attack}]},
        {"role": "assistant", "content": attack, "tool_calls": [call]},
    ]
    page = write_page(
        PLAN,
        [
            EvaluatedEpisode(1, "success", 1.0, 2, messages=messages),
            EvaluatedEpisode(2, "not_played", error=attack),
        ],
    )
    assert attack not in page
    played, not_played = data_in(page)["episodes"]
    assert played["observation"] == messages[:1]
    assert [step["action"] for step in played["steps"]] == messages[1:]
    assert (played["ending"], played["reward"]) == ("success", 1.0)
    assert (not_played["ending"], not_played["lost"]) == ("not_played", attack)
    assert "connect-src" not in page
    assert "default-src 'none'" in page
    assert "http:" not in page


def data_in(page: str) -> Any:
    """The episodes that the page holds."""
    return orjson.loads(page.split('id="kept-episodes">')[1].split("</script>")[0])


def test_page_holds_every_script_that_it_needs_under_the_name_by_which_it_is_imported() -> None:
    page = write_page(PLAN, [EvaluatedEpisode(1, "success", 1.0, 2)])
    scripts = orjson.loads(page.split('type="importmap">')[1].split("</script>")[0])["imports"]
    texts = [base64.b64decode(url.partition(",")[2]).decode() for url in scripts.values()]
    imported = {name for text in texts for name in re.findall(r"""from\s*["']([^"']+)["']""", text)}
    assert imported | {"page:app.js"} == set(scripts)


TOO_LONG = {
    "status": 400,
    "body": {"error": {"code": "context_length_exceeded", "message": "too many tokens"}},
}
FILTERED: dict[str, Any] = {
    "status": 400,
    "body": {"error": {"code": "content_filter", "message": "filtered"}},
}
CUT: dict[str, Any] = {
    "choices": [
        {"finish_reason": "length", "message": {"content": "<action>right", "reasoning_content": "go <on>"}}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3},
}


async def test_conversation_that_is_refused_ends_its_own_episode_only(
    server: ServerProcess, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    plan = EvaluationPlan("m", "frozen_lake", 4, 10, LAKE)
    # One at a time: the first takes a step and becomes too long, the second is filtered, the others go on.
    said = [RIGHT, TOO_LONG, FILTERED, RIGHT, RIGHT, RIGHT, RIGHT]
    with serving_model(said) as endpoint:
        async with AsyncEnvClient(server.url) as client, ChatModel(f"{endpoint.url}/v1", "m") as model:
            episodes = await evaluate(plan, client, model, out, concurrency=1)
            again = await evaluate(plan, client, model, out, concurrency=1)
    assert [episode.outcome for episode in episodes] == ["out_of_context", "not_played", "success", "success"]
    assert again == episodes
    assert len(endpoint.requests) == len(said)
    summary = Summary.of(episodes)
    assert (summary.played, summary.not_played, summary.refused, summary.out_of_context) == (3, 1, 1, 1)
    assert episodes[0].turns == 1
    assert "context_length_exceeded" in write_page(plan, episodes)


async def test_cut_answers_are_counted_and_their_reasoning_shown(
    server: ServerProcess, tmp_path: Path
) -> None:
    plan = EvaluationPlan("m", "frozen_lake", 1, 10, LAKE, max_turns=2)
    episodes = await played(server, tmp_path / "e", itertools.repeat(CUT), plan)
    assert episodes[0].cut_off == episodes[0].turns
    assert Summary.of(episodes).cut_off_share == 1.0
    step = data_in(write_page(plan, episodes))["episodes"][0]["steps"][0]
    assert step["action"]["reasoning_content"] == "go <on>"
    assert (step["prompt_tokens"], step["tokens"]) == (5, 3)


async def test_second_evaluation_in_a_folder_is_refused_while_the_first_is_at_work(
    server: ServerProcess, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    refused: list[str] = []

    def intrude(_: EvaluatedEpisode) -> None:
        if not refused:
            try:
                with run_module._alone_in(out):
                    pass
            except ValueError as error:
                refused.append(str(error))

    with serving_model(itertools.repeat(RIGHT)) as endpoint:
        async with AsyncEnvClient(server.url) as client, ChatModel(f"{endpoint.url}/v1", "m") as model:
            await evaluate(PLAN, client, model, out, on_episode=intrude)
            await evaluate(PLAN, client, model, out)
    assert "another evaluation is writing" in refused[0]


def test_plan_of_an_earlier_version_is_the_same_plan(tmp_path: Path) -> None:
    open_folder(PLAN, tmp_path / "e")
    kept = tmp_path / "e" / "plan.json"
    fields = orjson.loads(kept.read_bytes())
    del fields["max_tokens"], fields["answer_format"]
    kept.write_bytes(orjson.dumps(fields))
    assert open_folder(PLAN, tmp_path / "e") == {}
