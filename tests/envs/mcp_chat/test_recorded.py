"""Answers of stateless servers are recorded: a replay reads them, starts nothing, and goes on in a new session."""

from __future__ import annotations

from typing import Any

from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.support import message, probe, told
from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.envs.mcp_chat.pool import pool_here
from verl_agent_env.envs.registry import default_registry


def durability_of(**arguments: Any) -> str:
    kind = default_registry().kind("mcp_chat")
    return kind.fitting(kind.validate(arguments)).durability


def test_only_episodes_whose_servers_are_all_stateless_are_recorded(configured: Any) -> None:
    configured(probe(name="one", stateless=True), probe(name="other"))
    assert durability_of(servers=["one"]) == "journal"
    assert durability_of(servers=["one", "other"]) == "none"
    assert durability_of() == "none"
    # A conversation alone calls nobody.
    assert durability_of(servers=[]) == "journal"


def test_the_state_of_an_episode_is_whole_only_where_all_servers_are_stateless(configured: Any) -> None:
    configured(probe(name="one", stateless=True), probe(name="other"))
    kind = default_registry().kind("mcp_chat")
    whole = [
        kind.fitting(kind.validate({"servers": servers})).has_state
        for servers in (["one"], ["one", "other"], [])
    ]
    assert whole == [True, False, True]


async def test_a_replay_calls_nobody_and_the_next_call_is_a_new_sessions(started: Started) -> None:
    env = await started(probe(stateless=True))
    env.begin_effects(None)
    before: list[Any] = [await env.areset(seed=1)]
    recorded = [env.take_effects()]
    actions = [message(("pid", {}), ("echo", {"text": "x"})), message(("fail", {})), message(("die", {}))]
    for action in actions:
        env.begin_effects(None)
        before.append(await env.astep(action))
        recorded.append(env.take_effects())
    await env.aclose()
    open_before = pool_here().num_sessions
    again = McpChatEnv(servers=["probe"])
    again.begin_effects(recorded[0])
    after: list[Any] = [await again.areset(seed=1)]
    again.take_effects()
    for action, outcomes in zip(actions, recorded[1:], strict=True):
        again.begin_effects(outcomes)
        after.append(await again.astep(action))
        again.take_effects()
    assert after == before
    assert pool_here().num_sessions == open_before
    again.begin_effects(None)
    observation, *_ = await again.astep(message(("pid", {}), ("echo", {"text": "y"})))
    new_pid, said = told(observation)
    assert said == "y"
    assert new_pid != told(before[1][0])[0]
    await again.aclose()


async def test_a_snapshot_has_the_tools_and_no_session(started: Started) -> None:
    env = await started(probe(stateless=True), scorer={"type": "exact_match", "answer": "x"})
    await env.astep(message(("echo", {"text": "x"})))
    again = McpChatEnv(servers=["probe"], scorer={"type": "exact_match", "answer": "x"})
    again.restore(env.snapshot())
    assert again.tools == env.tools
    assert again.state_digest() == env.state_digest()
    observation, *_ = await again.astep(message(("echo", {"text": "y"})))
    assert told(observation) == ["y"]
    await again.aclose()
