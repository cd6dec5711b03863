"""What the client gives, against a server: everything that the API has, for one environment and for many."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.client.conftest import LAKE
from verl_agent_env.client import AsyncEnvClient, EnvClient
from verl_agent_env.client.calls import ClientVerb
from verl_agent_env.client.transport import _IDLE_S, _error_of
from verl_agent_env.config import ServerSettings
from verl_agent_env.errors import EpisodeEndedError, UnknownEnvNameError, VerlAgentEnvError, all_errors
from verl_agent_env.seeds import following_seed
from verl_agent_env.types import StepResult

ROOM: dict[str, Any] = {"dim_room": [6, 6], "num_boxes": 1, "include_task_prompt": False}


async def test_first_reset_gives_the_beginning_and_later_ones_another(client: AsyncEnvClient) -> None:
    async with client.make("sokoban", seed=3, **ROOM) as env:
        beginning = env.beginning
        assert await env.reset() == beginning
        assert env.beginning is None
        assert (await env.reset()).info == {"seed": following_seed(3)}
        assert (await env.reset(seed=4)).info == {"seed": 4}
        assert (await env.state())["seed"] == 4


async def test_step_gives_the_five_returns_of_gymnasium(client: AsyncEnvClient) -> None:
    async with client.make("sokoban", seed=3, env_kwargs=ROOM) as env:
        await env.reset()
        observation, reward, terminated, truncated, info = await env.step("<answer>Left</answer>")
        assert observation[0]["role"] == "user"
        assert (reward, terminated, truncated, info["num_steps"]) == (-0.1, False, False, 1)
        assert env.seq == 1


async def test_all_that_can_be_asked_of_an_environment(client: AsyncEnvClient) -> None:
    env = await client.make("sokoban", seed=3, **ROOM)
    openai, anthropic = await env.tools(), await env.tools("anthropic")
    assert [tool["function"]["name"] for tool in openai] == [tool["name"] for tool in anthropic]
    assert "Sokoban" in await env.task_prompt()
    assert (await env.action_space())["title"] == "Action"
    assert await env.allow_parallel_tool_call() is False
    assert str(await env.render()).startswith("#")
    assert str(await env.render("svg")).startswith("<svg")
    assert (await env.render("png"))[:4] == b"\x89PNG"
    assert (await env.trajectory())["steps"] == []
    assert (await env.state())["env_id"] == env.env_id
    names = [kind["name"] for kind in await client.catalogue()]
    assert "verl_env/sokoban-v0" in names
    assert "verl_env/remote-v0" not in names
    assert (await client.cluster())["num_slots"] == 4096


async def test_batches_give_values_or_errors_in_order(client: AsyncEnvClient) -> None:
    envs = [client.make(**LAKE, seed=seed) for seed in range(5)]
    envs[3] = client.make("nothing_like_it")
    made = await client.initialize_batch(envs)
    assert isinstance(made[3], UnknownEnvNameError)
    del envs[3]
    assert [env.env_id != "" for env in envs] == [True] * 4
    begun = await client.reset_batch(envs, seeds=[1, 2, 3, 4])
    assert [b.info["seed"] for b in begun if not isinstance(b, VerlAgentEnvError)] == [1, 2, 3, 4]
    short = await client.make(**{**LAKE, "env_kwargs": {"max_steps": 1}})
    await short.step("up")
    results = await client.step_batch([*envs, short], ["right"] * 5)
    assert [type(result) for result in results] == [StepResult] * 4 + [EpisodeEndedError]
    assert await client.close_batch([*envs, short]) == [None] * 5


async def test_calls_with_other_names_and_arguments_share_a_batch(client: AsyncEnvClient) -> None:
    made = await asyncio.gather(
        client.make("sokoban", seed=1, **ROOM),
        client.make("countdown", seed=1),
        client.make("countdown", seed=1, num_numbers=4),
        client.make("countdown", seed=1, ttl_s=77.0),
    )
    states = await asyncio.gather(*(env.state() for env in made))
    assert [state["env_name"].split("/")[1] for state in states] == ["sokoban-v0"] + ["countdown-v0"] * 3
    assert states[3]["ttl_s"] == 77.0


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
async def test_options_of_a_reset_arrive(make_client: Any, micro_batching: bool) -> None:
    client = make_client(micro_batching=micro_batching)
    env = await client.make(**LAKE, seed=1)
    with pytest.raises(VerlAgentEnvError) as caught:
        await env.reset(options={"no such option": 1})
    assert caught.value.code == "invalid_env_arguments"
    # Nothing was changed by it.
    assert await env.step("right")


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.code)
def test_every_error_of_the_server_is_raised_as_its_class(error: type[VerlAgentEnvError]) -> None:
    problem = {**error().to_problem(), "detail": "said by the server"}
    raised = _error_of("http://server", error.status, orjson.dumps(problem), "")
    assert type(raised) is error
    assert raised.retryable is problem["retryable"]
    verb: ClientVerb[Any, Any] = ClientVerb(
        "step", str, bytes, lambda _: None, lambda _: b"", lambda answer, _: answer["rewards"]
    )
    body = orjson.dumps({"rewards": [1.0, None], "errors": [{"index": 1, **problem}]})
    first, second = verb.decode_batch("http://server", body, 2)
    assert first == 1.0
    assert type(second) is error


def test_idle_connections_are_closed_by_the_client_and_not_under_a_call() -> None:
    assert ServerSettings().keep_alive_s > 2 * _IDLE_S


def test_synchronous_client_does_the_same(sync_client: EnvClient) -> None:
    with sync_client.make("sokoban", seed=3, **ROOM) as env:
        assert env.reset().info == {"seed": 3}
        assert env.step("<answer>Left</answer>").reward == -0.1
        assert (env.seq, env.state()["seq"], len(env.trajectory()["steps"])) == (1, 1, 1)
        assert env.reset(seed=5).info == {"seed": 5}
        assert str(env.render()).startswith("#")
        assert next(tool["name"] for tool in env.tools("anthropic")) == "push_up"
        assert "Sokoban" in env.task_prompt()
        assert env.action_space()["title"] == "Action"
        assert env.allow_parallel_tool_call() is False
        assert sync_client.attach(env.env_id).seq == 0
    with sync_client.run() as run:
        run.make(**LAKE)
        assert run.close() == 1
    assert sync_client.catalogue()
    assert sync_client.cluster()["nodes"]
    with pytest.raises(UnknownEnvNameError):
        sync_client.make("nothing_like_it")
