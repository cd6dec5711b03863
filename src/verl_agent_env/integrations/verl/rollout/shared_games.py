"""Games that samples of a group share: each sample is the conversation of one seat.

verl takes one conversation with one reward for each sample. So of a game of two seats the samples 0 and 1 are its seats, 2 and 3
those of the next game. Whichever of them comes first has the game played to its end, at all seats, and the others get the
conversations of theirs: nobody waits for a sample that never comes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

_MAX_GAMES = 4096

T = TypeVar("T")


class SharedGames(Generic[T]):
    """Games that samples of one process share."""

    def __init__(self) -> None:
        self._games: OrderedDict[Hashable, asyncio.Future[Sequence[T]]] = OrderedDict()
        self._arrivals: Counter[Hashable] = Counter()

    async def sample_of(
        self, group: Hashable, number: int | None, num_seats: int, play: Callable[[], Awaitable[Sequence[T]]]
    ) -> T:
        """Return the result of the seat that is this sample's: of a game that another one has played, or of ``play()``.

        Args:
            group: The group of samples; ``None`` if verl does not say it: then each sample plays a game of its own.
            number: Number of the sample within the group; by default in the order of the calls.
            num_seats: Number of seats.
            play: Plays a whole game, and returns the result of each seat.
        """
        if number is None:
            number = self._arrivals[group]
            self._arrivals[group] += 1
        if group is None:
            return (await play())[number % num_seats]
        key = (group, number // num_seats)
        game = self._games.get(key)
        if game is None:
            game = self._games[key] = asyncio.ensure_future(play())
            if len(self._games) > _MAX_GAMES:
                # Seats of long ago that no sample has asked for: a group was no multiple of the seats.
                self._games.popitem(last=False)
                self._arrivals.clear()
        # A sample that is cancelled does not end the game of the others.
        return (await asyncio.shield(game))[number % num_seats]

    async def close(self) -> None:
        """End the games that are being played."""
        games = [game for game in self._games.values() if not game.done()]
        self._games.clear()
        self._arrivals.clear()
        for game in games:
            game.cancel()
        await asyncio.gather(*games, return_exceptions=True)
