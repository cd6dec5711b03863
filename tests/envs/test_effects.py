"""Outcomes of calls to the outside are kept, and given again to whoever plays the step once more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from verl_agent_env.envs.effects import Effects, OutcomeMissingError, carrying_out


async def ask(effects: Effects, names: Sequence[str], delays: Sequence[int], number: int) -> list[str]:
    """Call the outside once for each name, after so many turns of the loop."""

    async def answer(name: str, delay: int) -> str:
        for _ in range(delay):
            await asyncio.sleep(0)
        return f"{number}:{name}"

    async def call(name: str, delay: int) -> str:
        return await effects.outcome_of(lambda: answer(name, delay))

    with carrying_out(number):
        return [await call(name, delay) for name, delay in zip(names, delays, strict=True)]


async def test_concurrent_calls_find_their_own_outcomes_whichever_was_answered_first() -> None:
    live = Effects()
    slow, quick = ask(live, ["a", "b"], [5, 5], 1), ask(live, ["a", "b", "c"], [1, 1, 1], 2)
    said = await asyncio.gather(slow, quick)
    again = Effects(live.made)
    played = await asyncio.gather(
        ask(again, ["a", "b"], [0, 0], 1), ask(again, ["a", "b", "c"], [0, 0, 0], 2)
    )
    assert list(played) == list(said) == [["1:a", "1:b"], ["2:a", "2:b", "2:c"]]
    assert again.made == {}


async def test_a_replay_calls_nobody_and_says_so_when_it_would_have_to() -> None:
    called = []

    async def call() -> str:
        called.append(1)
        return "said"

    replay = Effects({"0.0": "recorded"})
    assert replay.are_given
    assert await replay.outcome_of(call) == "recorded"
    with pytest.raises(OutcomeMissingError):
        await replay.outcome_of(call)
    with pytest.raises(OutcomeMissingError):
        Effects({}).outcome_of_blocking(lambda: "said")
    assert called == []


async def test_a_call_that_fails_leaves_no_outcome() -> None:
    effects = Effects()

    def fail() -> str:
        raise OSError("no answer")

    with pytest.raises(OSError, match="no answer"):
        effects.outcome_of_blocking(fail)
    assert effects.outcome_of_blocking(lambda: "said") == "said"
    assert list(effects.made.values()) == ["said"]


def test_an_outcome_is_the_same_in_a_replay() -> None:
    effects = Effects()
    said: Any = effects.outcome_of_blocking(lambda: ("a", {"b": 1.5}))
    again: Any = Effects(effects.made).outcome_of_blocking(tuple)
    assert said == again == ["a", {"b": 1.5}]
    with pytest.raises(TypeError):
        effects.outcome_of_blocking(object)
