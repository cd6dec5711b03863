"""Environments that await, used awaited, through Gymnasium, and on a host."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, ClassVar

import gymnasium
import orjson
import pytest

from tests.waiting import NEVER_S, no_hang
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.envs.async_env import AsyncChatEnv
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import EnvSpec, Registry
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import (
    EnvironmentFailedError,
    EpisodeEndedError,
    EpisodeNotStartedError,
    InvalidEnvArgumentsError,
)
from verl_agent_env.messages import Tool, ToolCall

NAME = "probe/relay-v0"


class RelayEnv(AsyncChatEnv):
    """Answers after a while: calls that are made together meet there."""

    env_name = NAME
    tools = (
        Tool("say", "Say something."),
        Tool("meet", "Wait for the other one."),
        Tool("finish", "End the episode."),
        Tool("fail", "Raise an error."),
        Tool("leave", "Leave the process."),
        Tool("refuse", "Cannot be done."),
    )
    word_aliases: ClassVar[Mapping[str, str]] = {"speak": "say"}

    def task_prompt_text(self) -> str:
        return "Relay."

    async def begin_episode_async(self, options: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        if options:
            raise self.invalid_arguments((["options"], "none are taken"))
        self.said = 0
        self.meeting = 0
        self.both = asyncio.Event()
        self.threads = [threading.current_thread().name]
        self.is_open = True

    def observe(self) -> str:
        return f"{self.said} said, luck {self.rng.randrange(1000)}" if self.said == 0 else f"{self.said} said"

    async def act_async(self, call: ToolCall) -> Outcome:
        await asyncio.sleep(0)
        self.threads.append(threading.current_thread().name)
        if call.name == "say":
            # The later of several calls is the quicker one.
            await asyncio.sleep(0.01 if not self.said else 0)
            self.said += 1
            return Outcome(f"said {call.arguments.get('text')}", reward=1.0)
        if call.name == "meet":
            self.meeting += 1
            if self.meeting == 2:
                self.both.set()
            async with no_hang():
                await self.both.wait()
            return Outcome("met")
        if call.name == "fail":
            raise ValueError("told to")
        if call.name == "leave":
            raise SystemExit(3)
        if call.name == "refuse":
            return Outcome(fault="That cannot be done.", reward=-0.5)
        return Outcome("over", terminated=True, success=True)

    async def close_async(self) -> None:
        await asyncio.sleep(0)
        self.is_open = False


def message(*names: str) -> dict[str, Any]:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": f'{{"text": "{i}"}}'}}
        for i, name in enumerate(names)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def shown(observation: list[Any]) -> list[tuple[str | None, str]]:
    return [(said.get("tool_call_id"), said["content"]) for said in observation]


@pytest.fixture
async def env() -> AsyncIterator[RelayEnv]:
    made = RelayEnv(max_actions_per_turn=4, max_steps=10)
    await made.areset(seed=1)
    yield made
    await made.aclose()


@pytest.fixture
def registered() -> Iterator[str]:
    gymnasium.register(NAME, entry_point=RelayEnv)
    yield NAME
    del gymnasium.registry[NAME]


# --- awaited ----------------------------------------------------------------------------------------------------


async def test_same_seed_gives_the_same_beginning(env: RelayEnv) -> None:
    first, info = await env.areset(seed=5)
    assert info == {"seed": 5}
    assert (await RelayEnv().areset(seed=5))[0] == first
    assert (await env.areset(seed=6))[0] != first
    assert first[0]["content"].startswith("Relay.")


async def test_reset_without_seed_goes_on_to_the_following_one(env: RelayEnv) -> None:
    other = RelayEnv()
    await other.areset(seed=1)
    assert (await env.areset())[1] == (await other.areset())[1] != {"seed": 1}


async def test_refused_options_leave_the_episode_as_it_is(env: RelayEnv) -> None:
    await env.astep(message("say"))
    with pytest.raises(InvalidEnvArgumentsError):
        await env.areset(seed=9, options={"no": 1})
    assert (env.episode_seed, env.num_steps) == (1, 1)


async def test_calls_of_one_action_run_side_by_side(env: RelayEnv) -> None:
    observation, _, _, _, info = await env.astep(message("meet", "meet"))
    assert shown(observation) == [("c0", "met"), ("c1", "met")]
    assert info["num_steps"] == 2


async def test_messages_stand_in_the_order_of_the_calls(env: RelayEnv) -> None:
    observation, reward, _, _, _ = await env.astep(message("say", "say", "say"))
    assert shown(observation) == [("c0", "said 0"), ("c1", "said 1"), ("c2", "said 2")]
    assert reward == 3.0


@pytest.mark.parametrize("names", [("finish", "say"), ("say", "finish")])
async def test_any_call_may_end_the_episode(env: RelayEnv, names: tuple[str, ...]) -> None:
    observation, _, terminated, truncated, info = await env.astep(message(*names))
    assert (terminated, truncated, info["success"]) == (True, False, True)
    assert len(observation) == 2
    with pytest.raises(EpisodeEndedError):
        await env.astep(message("say"))


async def test_calls_beyond_the_limit_of_a_turn_are_refused(env: RelayEnv) -> None:
    observation, reward, _, _, info = await env.astep(message(*["say"] * 6))
    assert (reward, info["num_steps"]) == (4.0, 4)
    assert ["Not carried out" in text for _, text in shown(observation)] == [False] * 4 + [True] * 2


async def test_calls_beyond_the_last_step_are_refused() -> None:
    env = RelayEnv(max_actions_per_turn=4, max_steps=2)
    await env.areset(seed=1)
    observation, _, terminated, truncated, info = await env.astep(message("say", "say", "say"))
    assert (terminated, truncated, info["num_steps"]) == (False, True, 2)
    assert "last step" in observation[2]["content"]


async def test_single_call_and_plain_words_are_read_as_ever(env: RelayEnv) -> None:
    assert shown((await env.astep(message("say")))[0]) == [("c0", "said 0")]
    observation, reward, *_ = await env.astep("<action>speak</action>")
    assert (shown(observation), reward) == ([(None, "said None")], 1.0)


@pytest.mark.parametrize("action", [message("none"), message("refuse"), "gibberish", 7])
async def test_invalid_action_is_answered(env: RelayEnv, action: Any) -> None:
    observation, _, terminated, _, info = await env.astep(action)
    assert (info["action_is_valid"], terminated, info["num_steps"]) == (False, False, 1)
    assert "Invalid action" in observation[0]["content"]


async def test_fault_among_others_makes_the_action_invalid(env: RelayEnv) -> None:
    _, reward, _, _, info = await env.astep(message("say", "refuse"))
    assert (info["action_is_valid"], info["action_is_effective"], reward) == (False, True, 0.5)


@pytest.mark.parametrize(("name", "raised"), [("fail", ValueError), ("leave", SystemExit)])
@pytest.mark.parametrize("others", [0, 2])
async def test_error_comes_out_when_all_calls_are_done(
    env: RelayEnv, name: str, raised: type[BaseException], others: int
) -> None:
    with pytest.raises(raised):
        await env.astep(message(name, *["say"] * others))
    assert env.said == others


async def test_step_before_reset_is_refused() -> None:
    with pytest.raises(EpisodeNotStartedError):
        await RelayEnv().astep("speak")


# --- through Gymnasium ----------------------------------------------------------------------------------------


def test_gymnasium_makes_and_plays_it(registered: str) -> None:
    env = gymnasium.make(registered, max_actions_per_turn=2)
    observation, info = env.reset(seed=3)
    assert info["seed"] == 3
    assert observation in env.observation_space
    observation, _, terminated, truncated, _ = env.step(message("meet", "meet"))
    assert (shown(observation), terminated, truncated) == ([("c0", "met"), ("c1", "met")], False, False)
    relay = env.unwrapped
    assert isinstance(relay, RelayEnv)
    env.close()
    assert relay.is_open is False
    assert set(relay.threads) == {"async-envs"}


def test_all_environments_share_one_loop() -> None:
    envs = [RelayEnv() for _ in range(5)]
    before = {thread.name for thread in threading.enumerate()} | {"async-envs"}
    for env in envs:
        env.reset(seed=1)
        env.close()
    assert [thread.name for thread in threading.enumerate()].count("async-envs") == 1
    assert {thread.name for thread in threading.enumerate()} <= before


@pytest.mark.parametrize(("name", "raised"), [("fail", ValueError), ("leave", SystemExit)])
def test_error_reaches_the_caller_and_the_loop_lives_on(name: str, raised: type[BaseException]) -> None:
    env = RelayEnv()
    env.reset(seed=1)
    with pytest.raises(raised):
        env.step(message(name))
    assert env.step(message("say"))[1] == 1.0
    env.close()


def test_plain_calls_inside_the_shared_loop_are_refused() -> None:
    class NestedEnv(RelayEnv):
        async def act_async(self, call: ToolCall) -> Outcome:
            RelayEnv().reset(seed=1)
            return Outcome()

    env = NestedEnv()
    env.reset(seed=1)
    with pytest.raises(RuntimeError, match="areset"):
        env.step(message("say"))
    env.close()


# --- on a host --------------------------------------------------------------------------------------------------


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    registry = Registry({NAME: EnvSpec(NAME, "nowhere:None")})
    # A test module has no name to import it by.
    registry._kinds[NAME] = EnvKind(NAME, RelayEnv, {})
    made = Host(registry, HostLimits(max_step_s=NEVER_S))
    yield made
    await made.stop()


async def test_host_awaits_it(host: Host) -> None:
    env_id, _ = await await_maybe(host.create(CreateRequest(NAME, 1, {"max_actions_per_turn": 2})))
    answer = await await_maybe(host.step(env_id, message("meet", "meet"), 0))
    assert [said["content"] for said in orjson.loads(answer.observation)] == ["met", "met"]
    relay = await await_maybe(host.read(env_id, lambda env: env))
    assert set(relay.threads) == {threading.current_thread().name}
    host.close(env_id)
    await host.stop()
    assert relay.is_open is False


async def test_host_outlives_an_environment_that_leaves(host: Host) -> None:
    host.registry.kind(NAME).replays = True
    env_id, _ = await await_maybe(host.create(CreateRequest(NAME, 1, {"max_actions_per_turn": 3})))
    for names in (("leave",), ("leave", "say")):
        with pytest.raises(EnvironmentFailedError) as caught:
            await await_maybe(host.step(env_id, message(*names), 0))
        assert caught.value.error == "SystemExit"
    await await_maybe(host.step(env_id, message("say"), 0))
