"""Self-play: one model plays all seats, and each sample is the conversation of one of them, with its own reward."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.integrations.verl.conftest import RUN_ID, MakeLoop
from tests.waiting import no_hang
from verl_agent_env.client import AsyncEnvClient

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")

PARAMS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}


def fakes() -> Any:
    from tests.integrations.verl import fakes as module

    return module


def columns(prompt: str) -> str:
    """Seat 0 plays the first column, seat 1 the second: seat 0 wins with its fourth piece."""
    return str(fakes().call("drop", column=1 if "You play X." in prompt else 2))


def row(number: int | None, group: str = "u", **env_kwargs: Any) -> dict[str, Any]:
    arguments = {"opponent": "self", **env_kwargs}
    made: dict[str, Any] = fakes().row("verl_env/connect_four-v0", **arguments)
    if number is not None:
        made |= {"uid": group, "session_id": number}
    return made


async def played(make_loop: MakeLoop, model: Any, *rows: dict[str, Any], **options: Any) -> list[Any]:
    """The outputs of a group whose samples are played at the same time, each by a loop of its own, as verl does."""
    async with no_hang():
        return list(
            await asyncio.gather(*(make_loop(model, **options).run(dict(PARAMS), **each) for each in rows))
        )


async def test_each_seat_is_a_sample_with_its_own_reward(
    make_loop: MakeLoop, tokenizer: Any, server: ServerProcess
) -> None:
    model = fakes().FakeModel(otherwise=columns)
    first, second = await played(make_loop, model, row(0), row(1))
    assert (first.reward_score, second.reward_score) == (1.0, -1.0)
    assert first.extra_fields["turn_scores"] == [0.0, 0.0, 0.0, 1.0]
    assert second.extra_fields["turn_scores"] == [0.0, 0.0, -1.0]
    assert [each.extra_fields["ended_by"] for each in (first, second)] == ["terminated", "terminated"]
    info = [each.extra_fields["reward_extra_info"] for each in (first, second)]
    assert [each["success"] for each in info] == [1.0, 0.0]
    # Seven moves by one model in one game.
    assert len(model.requests) == 7
    for output, mark, other, column in ((first, "X", "O", 1), (second, "O", "X", 2)):
        text = tokenizer.decode([*output.prompt_ids, *output.response_ids])
        assert f"You play {mark}." in text
        assert f"You play {other}." not in text
        written = [
            token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask
        ]
        count = len(output.extra_fields["turn_scores"])
        assert tokenizer.decode(written) == (fakes().call("drop", column=column) + "<|im_end|>") * count
    async with AsyncEnvClient(server.url) as client:
        assert await client.close_run(RUN_ID) == 0


async def test_each_conversation_only_grows(make_loop: MakeLoop, tokenizer: Any) -> None:
    model = fakes().FakeModel(otherwise=columns)
    await played(make_loop, model, row(0), row(1))
    conversations: dict[str, list[list[int]]] = {}
    for request in model.requests:
        conversations.setdefault(request["request_id"], []).append(request["prompt_ids"])
    assert len(conversations) == 2
    for prompts in conversations.values():
        for before, after in itertools.pairwise(prompts):
            assert after[: len(before)] == before
        last = tokenizer.decode(prompts[-1])
        assert last.endswith("<|im_start|>assistant\n")
        # The rules stand at the beginning alone.
        assert last.count("You play Connect Four") == 1


async def test_samples_of_one_group_share_games_and_groups_do_not(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel(otherwise=columns)
    outputs = await played(make_loop, model, *(row(n) for n in range(4)), row(0, "v"), row(1, "v"))
    assert [output.reward_score for output in outputs] == [1.0, -1.0] * 3
    assert len(model.requests) == 3 * 7


async def test_a_seat_without_a_sample_holds_up_nobody(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel(otherwise=columns)
    outputs = await played(make_loop, model, row(1))
    assert [output.reward_score for output in outputs] == [-1.0]


async def test_without_numbers_each_sample_plays_a_game_of_its_own(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel(otherwise=columns)
    outputs = await played(make_loop, model, row(None), row(None))
    assert sorted(output.reward_score for output in outputs) == [-1.0, 1.0]
    assert len(model.requests) == 2 * 7


async def test_an_invalid_move_is_told_to_its_seat_alone(make_loop: MakeLoop, tokenizer: Any) -> None:
    model = fakes().FakeModel(fakes().call("drop", column=9), otherwise=columns)
    first, second = await played(make_loop, model, row(0, invalid_action_reward=-0.5), row(1))
    assert first.extra_fields["turn_scores"] == [-0.5, 0.0, 0.0, 0.0, 1.0]
    assert "There is no column 9" in tokenizer.decode(first.response_ids)
    assert "There is no column 9" not in tokenizer.decode([*second.prompt_ids, *second.response_ids])
    assert second.reward_score == -1.0


async def test_the_budget_of_one_seat_ends_the_game_for_all(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel(otherwise=columns)
    first, second = await played(make_loop, model, row(0), row(1), max_turns=2)
    assert [each.extra_fields["ended_by"] for each in (first, second)] == ["turns", "others"]
    assert (first.reward_score, second.reward_score) == (0.0, 0.0)


async def test_a_seat_that_never_acted_learns_nothing(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel(otherwise=columns)
    first, second = await played(make_loop, model, row(0, max_steps=1), row(1, max_steps=1))
    assert second.prompt_ids
    assert second.response_mask == [0]
    assert (second.reward_score, second.extra_fields["ended_by"]) == (0.0, "truncated")
    # verl's trainer reads of each sample which weights it was played with.
    versions = [
        (each.extra_fields["min_global_steps"], each.extra_fields["max_global_steps"])
        for each in (first, second)
    ]
    assert versions[0] == versions[1]
    assert None not in versions[1]


async def test_a_model_that_fails_fails_every_seat(make_loop: MakeLoop, server: ServerProcess) -> None:
    model = fakes().FakeModel(RuntimeError("gone"))
    rows = (row(0), row(1))
    outcomes = await asyncio.gather(
        *(make_loop(model).run(dict(PARAMS), **each) for each in rows), return_exceptions=True
    )
    assert [str(each) for each in outcomes] == ["gone", "gone"]
    async with AsyncEnvClient(server.url) as client:
        assert await client.close_run(RUN_ID) == 0


async def test_a_lost_environment_is_played_again_with_its_seats(
    make_loop: MakeLoop, server: ServerProcess
) -> None:
    model = fakes().FakeModel(otherwise=columns)

    def lose(number: int) -> None:
        if number == 3:
            closed.append(close())

    closed: list[Any] = []

    def close() -> Any:
        return asyncio.ensure_future(_close_all(server))

    model.before = lose
    first, second = await played(make_loop, model, row(0), row(1))
    assert (first.reward_score, second.reward_score) == (1.0, -1.0)
    assert await closed[0] >= 1


async def _close_all(server: ServerProcess) -> int:
    async with AsyncEnvClient(server.url) as client:
        return await client.close_run(RUN_ID)


async def test_parts_of_the_reward_are_logged(make_loop: MakeLoop) -> None:
    parts = {"length": {"free_chars": 2, "max_chars": 12, "penalty": -0.5}}
    made = fakes().row("frozen_lake", desc=["SFFG"], is_slippery=False, reward_parts=parts)
    model = fakes().FakeModel("right")
    loop = make_loop(model, reward_parts=["task", "length", "absent"])
    output = await loop.run(dict(PARAMS), **made)
    logged = output.extra_fields["reward_extra_info"]
    assert (logged["part/task"], logged["part/absent"]) == (1.0, 0.0)
    assert logged["part/length"] < 0.0
    assert logged["score"] == pytest.approx(logged["part/task"] + logged["part/length"])


async def test_parts_of_each_seat_add_up_to_its_reward(make_loop: MakeLoop) -> None:
    parts = {"weights": {"task": 2.0}, "length": {"free_chars": 0, "max_chars": 1_000, "penalty": -1.0}}
    model = fakes().FakeModel(fakes().call("drop", column=9), otherwise=columns)
    names = ["task", "length", "invalid_action"]
    rows = (row(number, reward_parts=parts, invalid_action_reward=-0.5) for number in (0, 1))
    outputs = await played(make_loop, model, *rows, reward_parts=names)
    for output, task, invalid in zip(outputs, (2.0, -2.0), (-0.5, 0.0), strict=True):
        logged = output.extra_fields["reward_extra_info"]
        assert (logged["part/task"], logged["part/invalid_action"]) == (task, invalid)
        assert -0.5 < logged["part/length"] < 0.0
        assert output.reward_score == pytest.approx(sum(logged[f"part/{name}"] for name in names))
