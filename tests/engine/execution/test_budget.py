"""What a batch may cost: items beyond it are refused, and nothing is done for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests import batch_calls
from tests.engine.conftest import KINDS
from tests.engine.probes import Controls
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.inspection import trajectory
from verl_agent_env.errors import (
    AnswerTooLargeError,
    BatchTooCostlyError,
    EnvironmentLostError,
    InvalidEnvArgumentsError,
)
from verl_agent_env.wire.results import Created, EncodedStep

Create = Callable[..., Any]
SLOW = {"dim_room": [30, 30], "num_boxes": 15, "min_pushes": 1}
"""A room that is made in a thread."""


@pytest.mark.parametrize("kind", KINDS)
async def test_steps_beyond_the_longest_answer_are_not_taken(
    make_host: Callable[..., Host], create: Create, kind: str
) -> None:
    host = make_host(max_answer_bytes=1000)
    env_ids = [await create(host, kind) for _ in range(40)]
    for env_id in env_ids:
        await await_maybe(host.step(env_id, "1", 0))
    answers = await batch_calls.step(host, env_ids, ["1"] * 40, [1] * 40)
    taken = [
        env_id for env_id, answer in zip(env_ids, answers, strict=True) if isinstance(answer, EncodedStep)
    ]
    left = [env_id for env_id in env_ids if env_id not in taken]
    assert taken
    assert left
    assert all(isinstance(answer, EncodedStep | AnswerTooLargeError) for answer in answers)
    assert {host.env_table.find(env_id).seq for env_id in left} == {1}
    again = await batch_calls.step(host, left[:5], ["1"] * 5, [1] * 5)
    assert all(isinstance(answer, EncodedStep) for answer in again)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_too_long_by_itself_is_refused_and_nothing_has_changed(
    make_host: Callable[..., Host], create: Create, kind: str
) -> None:
    host = make_host(max_answer_bytes=2000)
    env_id = await create(host, kind)
    first = await await_maybe(host.step(env_id, "1", 0))
    # The same as after an exception: what can be played again stands where it stood.
    if "live" in kind:
        with pytest.raises(EnvironmentLostError):
            await await_maybe(host.step(env_id, "long", 1))
        return
    with pytest.raises(AnswerTooLargeError) as caught:
        await await_maybe(host.step(env_id, "long", 1))
    assert caught.value.size > 5000
    assert caught.value.max_answer_bytes == 2000
    second = await await_maybe(host.step(env_id, "2", 1))
    totals = [orjson.loads(answer.observation)[0]["content"] for answer in (first, second)]
    assert int(totals[1]) - int(totals[0]) == 2
    (refused,) = await batch_calls.step(host, [env_id], ["long"], [2])
    assert isinstance(refused, AnswerTooLargeError)
    assert host.env_table.find(env_id).seq == 2


async def test_a_beginning_too_long_makes_nothing(make_host: Callable[..., Host]) -> None:
    host = make_host(max_answer_bytes=2000)
    for execution in ("single_turn_chat", "sokoban"):
        kwargs = {"task_prompt": "x" * 3000} if execution == "single_turn_chat" else {"dim_room": [40, 40]}
        with pytest.raises(AnswerTooLargeError):
            await await_maybe(host.create(CreateRequest(f"verl_env/{execution}-v0", 1, kwargs)))
    assert len(host.env_table) == 0


async def test_an_episode_too_long_to_be_shown_is_refused(
    make_host: Callable[..., Host], create: Create
) -> None:
    host = make_host(max_answer_bytes=2000)
    env_id = await create(host, "inline")
    for seq in range(60):
        await await_maybe(host.step(env_id, "1", seq))
    with pytest.raises(AnswerTooLargeError):
        await trajectory(host, env_id)
    assert host.env_table.find(env_id).seq == 60
    await await_maybe(host.step(env_id, "1", 60))


async def test_long_arguments_are_taken_into_account_before_anything_is_made(
    make_host: Callable[..., Host], controls: Controls
) -> None:
    host = make_host(max_answer_bytes=100_000)
    chat = {"task_prompt": "x" * 30_000}
    requests = [CreateRequest("verl_env/single_turn_chat-v0", 1, chat)] * 50
    results = await batch_calls.create(host, requests)
    made = [result for result in results if isinstance(result, tuple)]
    assert 1 <= len(made) <= 4
    assert len(host.env_table) == len(made)
    assert sum(isinstance(result, AnswerTooLargeError) for result in results) == 50 - len(made)


async def test_environments_that_compute_too_long_in_all_are_refused(make_host: Callable[..., Host]) -> None:
    host = make_host(max_batch_compute_s=1.0)
    quick = CreateRequest("verl_env/sokoban-v0", 1)
    slow = CreateRequest("verl_env/sokoban-v0", 1, SLOW)
    costs_s = host.calls.check(slow).computing_ms / 1000
    assert costs_s > 0.5
    assert host.calls.check(quick).computing_ms == 0
    results = await batch_calls.create(host, [quick, slow, quick, slow, quick])
    assert [type(result) for result in results] == [
        Created,
        BatchTooCostlyError if costs_s > 1 else Created,
        Created,
        BatchTooCostlyError,
        Created,
    ]


async def test_what_computes_long_runs_in_a_thread_and_is_the_same(host: Host) -> None:
    env_id, begun = await await_maybe(host.create(CreateRequest("verl_env/sokoban-v0", 3, {"min_pushes": 2})))
    assert host.env_table.find(env_id).kind.execution == "compute"
    other, same = await await_maybe(host.create(CreateRequest("verl_env/sokoban-v0", 3, {"min_pushes": 2})))
    assert same.observation == begun.observation
    assert orjson.loads((await await_maybe(host.step(other, "push left", 0))).info)["num_steps"] == 1


@pytest.mark.parametrize("name", ["single_turn_chat", "frozen_lake"])
async def test_arguments_that_json_cannot_hold_are_the_items_own_fault(host: Host, name: str) -> None:
    deep = {"task_prompt": orjson.loads(b"[" * 300 + b"]" * 300)}
    results = await batch_calls.create(host, [CreateRequest(name, 1, deep), CreateRequest("frozen_lake", 1)])
    assert [type(result) for result in results] == [InvalidEnvArgumentsError, Created]
