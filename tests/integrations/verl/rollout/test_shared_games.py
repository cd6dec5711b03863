"""Games that samples share: played once, for whoever comes, and remembered for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.waiting import no_hang

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")


class Games:
    """Games of two seats, which can be held up, and which count how often one was played."""

    def __init__(self) -> None:
        from verl_agent_env.integrations.verl.rollout.shared_games import SharedGames

        self.shared: SharedGames[str] = SharedGames()
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.played = 0

    async def sample(self, group: Any, number: int | None) -> str:
        return await self.shared.sample_of(group, number, 2, self._play)

    async def _play(self) -> list[str]:
        self.played += 1
        game = self.played
        self.begun.set()
        await self.may_end.wait()
        return [f"game {game}, seat {seat}" for seat in range(2)]


async def test_two_samples_are_one_game_and_the_next_two_another() -> None:
    games = Games()
    assert [await games.sample("u", number) for number in (1, 0, 3, 2)] == [
        "game 1, seat 1",
        "game 1, seat 0",
        "game 2, seat 1",
        "game 2, seat 0",
    ]


async def test_samples_without_numbers_take_the_seats_in_the_order_in_which_they_come() -> None:
    games = Games()
    assert [await games.sample("u", None) for _ in range(3)] == [
        "game 1, seat 0",
        "game 1, seat 1",
        "game 2, seat 0",
    ]


async def test_without_a_group_nothing_is_shared() -> None:
    games = Games()
    assert [await games.sample(None, number) for number in (0, 1)] == ["game 1, seat 0", "game 2, seat 1"]


async def test_a_sample_that_is_cancelled_does_not_end_the_game_of_the_others() -> None:
    games = Games()
    games.may_end.clear()
    async with no_hang():
        first, second = (asyncio.create_task(games.sample("u", number)) for number in range(2))
        await games.begun.wait()
        first.cancel()
        await asyncio.wait([first])
        games.may_end.set()
        assert await second == "game 1, seat 1"
    assert games.played == 1


async def test_seats_that_nobody_asks_for_are_forgotten_in_the_end() -> None:
    games = Games()
    assert await games.sample("u", 0) == "game 1, seat 0"
    for group in range(4_096):
        await games.sample(group, 0)
    assert await games.sample("u", 1) == "game 4098, seat 1"


async def test_closing_ends_the_games_that_are_being_played() -> None:
    games = Games()
    games.may_end.clear()
    async with no_hang():
        waiting = asyncio.create_task(games.sample("u", 0))
        await games.begun.wait()
        await games.shared.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
