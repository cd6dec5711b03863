"""The same text is the same action, whichever way it comes: each dialect on each path.

``pytest tests/test_every_path.py -v`` prints the table; verl's agent loop has the same test in
``tests/integrations/verl/rollout/test_answers.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from mcp import Client
from mcp.types import TextContent

from tests.conftest import ServerProcess
from tests.examples.model_server import serving_model
from tests.messages.reading.corpus import DIALECTS, MEAN_RIGHT
from verl_agent_env import interface
from verl_agent_env.client import AsyncEnvClient, play
from verl_agent_env.evaluation import ChatModel, EvaluationPlan, evaluate
from verl_agent_env.messages import content_text

LAKE: dict[str, Any] = {"desc": ["FSFG"], "is_slippery": False, "max_steps": 1}
PUZZLE: dict[str, Any] = {"numbers": [1, 2, 3], "target": 9, "max_steps": 1}
ENVIRONMENTS: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]]]] = {
    "frozen_lake": (LAKE, ("move_right", {})),
    "countdown": (PUZZLE, ("test_equation", {"equation": "(1 + 2) * 3"})),
}


class Turn(NamedTuple):
    """A text in an environment whose episode it ends."""

    server: ServerProcess
    folder: Path
    """Empty."""
    name: str
    kwargs: dict[str, Any]
    text: str


class Outcome(NamedTuple):
    """What a step led to."""

    shown: str
    reward: float
    terminated: bool
    valid: bool


def outcome_of(result: Any) -> Outcome:
    step = dict(result) if isinstance(result, dict) else dict(zip(FIELDS, result, strict=True))
    shown = "\n".join(content_text(message["content"]) for message in step["observation"])
    return Outcome(shown, step["reward"], step["terminated"], step["info"]["action_is_valid"])


FIELDS = ("observation", "reward", "terminated", "truncated", "info")
Take = Callable[[Turn], Awaitable[Outcome]]


def in_process(wrap: Callable[[str], Any]) -> Take:
    async def take(turn: Turn) -> Outcome:
        env_id = interface.initialize_environment(turn.name, seed=1, env_kwargs=turn.kwargs)
        interface.reset(env_id, seed=1)
        try:
            return outcome_of(interface.step(env_id, wrap(turn.text)))
        finally:
            interface.close_environment(env_id)

    return take


async def over_http(turn: Turn) -> Outcome:
    async with httpx.AsyncClient(base_url=turn.server.url, timeout=60) as http:
        made = await http.post(
            "/api/environment/initialize", json={"env_name": turn.name, "seed": 1, "env_kwargs": turn.kwargs}
        )
        path = f"/api/environment/{made.json()['env_id']}"
        taken = outcome_of((await http.post(f"{path}/step", json={"action": turn.text})).json())
        await http.post(f"{path}/close")
        return taken


async def in_a_batch(turn: Turn) -> Outcome:
    async with httpx.AsyncClient(base_url=turn.server.url, timeout=60) as http:
        made = await http.post(
            "/api/batch/initialize", json={"env_names": [turn.name], "seeds": [1], "env_kwargs": turn.kwargs}
        )
        ids = made.json()["env_ids"]
        batch = (await http.post("/api/batch/step", json={"env_ids": ids, "actions": [turn.text]})).json()
        await http.post("/api/batch/close", json={"env_ids": ids})
        columns = ("observations", "rewards", "terminations", "truncations", "infos")
        return outcome_of([batch[column][0] for column in columns])


async def with_the_client(turn: Turn) -> Outcome:
    async with (
        AsyncEnvClient(turn.server.url) as client,
        client.make(turn.name, seed=1, env_kwargs=turn.kwargs) as env,
    ):
        await env.reset()
        return outcome_of(
            await env.step({"role": "assistant", "content": [{"type": "text", "text": turn.text}]})
        )


async def by_play(turn: Turn) -> Outcome:
    async def llm(_: Any, __: Any) -> str:
        return turn.text

    async with AsyncEnvClient(turn.server.url) as client:
        played = await play(client, llm, turn.name, seed=1, env_kwargs=turn.kwargs)
    return Outcome(
        content_text(played.messages[-1]["content"]), played.reward, played.terminated, not played.num_invalid
    )


async def by_mcp(turn: Turn) -> Outcome:
    async with Client(f"{turn.server.url}/mcp") as client:
        begun = await client.call_tool(
            "start_environment", {"env_name": turn.name, "seed": 1, "env_kwargs": turn.kwargs}
        )
        env_id = begun.structured_content["env_id"]
        taken = await client.call_tool("act", {"env_id": env_id, "text": turn.text})
        await client.call_tool("close_environment", {"env_id": env_id})
    facts = taken.structured_content
    # The last block is the summary.
    shown = "\n".join(block.text for block in taken.content[:-1] if isinstance(block, TextContent))
    return Outcome(shown, facts["reward"], facts["terminated"], facts["info"]["action_is_valid"])


async def in_an_evaluation(turn: Turn) -> Outcome:
    plan = EvaluationPlan("m", turn.name, 1, 1, turn.kwargs)
    with serving_model(itertools.repeat({"role": "assistant", "content": turn.text})) as endpoint:
        async with AsyncEnvClient(turn.server.url) as client, ChatModel(f"{endpoint.url}/v1", "m") as model:
            [episode] = await evaluate(plan, client, model, turn.folder, concurrency=1)
    shown = content_text(episode.messages[-1]["content"])
    return Outcome(shown, episode.reward, episode.outcome == "success", not episode.invalid_actions)


PATHS: dict[str, Take] = {
    "message": in_process(lambda text: {"role": "assistant", "content": text}),
    "list of messages": in_process(
        lambda text: [{"role": "user", "content": "up"}, {"role": "assistant", "content": text}]
    ),
    "message of Anthropic's": in_process(
        lambda text: {"type": "message", "role": "assistant", "content": [{"type": "text", "text": text}]}
    ),
    "answer of Gemini's": in_process(
        lambda text: {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}
    ),
    "completion": in_process(
        lambda text: {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    ),
    "HTTP": over_http,
    "batch": in_a_batch,
    "client": with_the_client,
    "play": by_play,
    "MCP": by_mcp,
    "evaluation": in_an_evaluation,
}


@pytest.mark.parametrize("env_name", ENVIRONMENTS)
@pytest.mark.parametrize("path", PATHS)
async def test_the_same_text_is_the_same_action(
    server: ServerProcess, tmp_path: Path, path: str, env_name: str
) -> None:
    kwargs, call = ENVIRONMENTS[env_name]
    for nth, (dialect, spell) in enumerate(DIALECTS.items()):
        turn = Turn(server, tmp_path / f"evaluation-{nth}", env_name, kwargs, spell(*call))
        expected = await in_process(str)(turn)
        assert expected.valid, dialect
        assert await PATHS[path](turn) == expected, dialect


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reason", MEAN_RIGHT)
async def test_what_a_text_means_is_the_same_on_every_path(
    server: ServerProcess, tmp_path: Path, path: str, reason: str
) -> None:
    right = await in_process(str)(Turn(server, tmp_path, "frozen_lake", LAKE, "right"))
    assert right.valid
    assert await PATHS[path](Turn(server, tmp_path / "e", "frozen_lake", LAKE, MEAN_RIGHT[reason])) == right


@pytest.mark.parametrize("path", PATHS)
async def test_a_thought_is_no_action_on_any_path(server: ServerProcess, tmp_path: Path, path: str) -> None:
    draft, call = (DIALECTS["hermes"](name, {}) for name in ("move_left", "move_right"))
    right = await in_process(str)(Turn(server, tmp_path, "frozen_lake", LAKE, "right"))
    for number, text in enumerate(
        (f"<think>{draft}</think><answer>right</answer>", f"{draft}</think>\n{call}")
    ):
        turn = Turn(server, tmp_path / str(number), "frozen_lake", LAKE, text)
        assert await PATHS[path](turn) == right
    cut_off = await PATHS[path](Turn(server, tmp_path / "cut", "frozen_lake", LAKE, f"<think>{draft}"))
    assert not cut_off.valid
