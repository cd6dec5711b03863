"""Many episodes at once, each with think time: as a trainer's rollout worker plays them."""

from __future__ import annotations

import heapq
import random
import time
from argparse import Namespace
from collections.abc import Iterable
from itertools import count

from loadtests.users.api_user import PAUSE_AFTER_FAILURE_S, ApiUser
from loadtests.users.episodes import Episode

_RESETS_GATHER_S = 0.5


class RolloutUser(ApiUser):
    """Plays ``--episodes-per-user`` episodes at once. Each has its own think time after every observation; actions that
    have become ready gather and are sent in one call, one call at a time. An episode that ends is followed by the next
    one of its environment."""

    abstract = False

    def on_start(self) -> None:
        self._tie = count()
        self._thinking: list[tuple[float, int, Episode]] = []
        """A heap: when the action is ready, a number that keeps the order among equals, and whose action it is."""
        self._finished: list[Episode] = []
        self._lost: list[Episode] = []
        self._next_turn = 0.0
        self._next_reset = 0.0

    @classmethod
    def episodes_of_one(cls, options: Namespace, /) -> int:
        return int(options.episodes_per_user)

    def turn(self) -> float:
        """Fill up, step what is due, let finished environments go on."""
        self._next_turn = time.perf_counter() + self.options.gather_s
        missing = self.options.episodes_per_user - len(self._thinking) - len(self._finished)
        if missing:
            self._fill_up(missing)
        self._step_due()
        if self._finished and time.perf_counter() >= self._next_reset:
            self._begin_next()
        first = self._thinking[0][0] if self._thinking else self._next_reset
        return max(first, self._next_turn) - time.perf_counter()

    def close_all(self) -> None:
        self.boards.own.ended += len(self._thinking) + len(self._finished) + len(self._lost)
        self.close([*(episode for _, _, episode in self._thinking), *self._finished, *self._lost])

    def _fill_up(self, missing: int) -> None:
        self.boards.own.ended += len(self._lost)
        self.close(self._lost)
        self._lost = []
        begun = self.initialize(self.mix.draw(missing))
        now = time.perf_counter()
        for episode in begun:
            # Anywhere in their think time: rollouts that begin together do not stay together.
            self._push(episode, now + random.random() * self.options.think_s)
        if not begun:
            self._next_turn = now + PAUSE_AFTER_FAILURE_S

    def _step_due(self) -> None:
        now = time.perf_counter()
        ready_at: dict[str, float] = {}
        due = []
        while self._thinking and self._thinking[0][0] <= now:
            ready, _, episode = heapq.heappop(self._thinking)
            ready_at[episode.env_id] = ready
            due.append(episode)
        if not due:
            return
        going, ended, lost = self.step(due)
        now = time.perf_counter()
        self.record(now - ready_at[episode.env_id] for taken in (going, ended) for episode in taken)
        self._think(going, now)
        self._finished += ended
        self._lost += lost
        if len(going) + len(ended) + len(lost) < len(due):
            self._keep(due, gone=(*going, *ended, *lost), ready_at=ready_at)
            self._next_turn = now + PAUSE_AFTER_FAILURE_S

    def _begin_next(self) -> None:
        # Ended episodes gather for longer than steps do: nothing waits for them, and resets are few.
        self._next_reset = time.perf_counter() + _RESETS_GATHER_S
        answer = self.call_batch("reset", {"env_ids": [episode.env_id for episode in self._finished]})
        if answer is None:
            self._next_turn = time.perf_counter() + PAUSE_AFTER_FAILURE_S
            return
        begun = []
        for episode, observation in zip(self._finished, answer["observations"], strict=True):
            if observation is not None:
                episode.begin(observation)
                begun.append(episode)
        self._lost += [self._finished[error["index"]] for error in answer["errors"] if not error["retryable"]]
        gone = {episode.env_id for episode in (*begun, *self._lost)}
        self._finished = [episode for episode in self._finished if episode.env_id not in gone]
        # An episode counts as alive until the next one of its environment begins: its place is taken all the time.
        self.boards.own.ended += len(begun)
        self.boards.own.begin(len(begun))
        self._think(begun, time.perf_counter())

    def _think(self, episodes: Iterable[Episode], now: float) -> None:
        least = self.options.think_s * (1.0 - self.options.think_spread)
        span = 2.0 * self.options.think_s * self.options.think_spread
        for episode in episodes:
            self._push(episode, now + least + span * random.random())

    def _keep(self, due: Iterable[Episode], gone: Iterable[Episode], ready_at: dict[str, float]) -> None:
        """Steps without an answer are due again, as they were: their number makes sure that none is taken twice."""
        answered = {episode.env_id for episode in gone}
        for episode in due:
            if episode.env_id not in answered:
                self._push(episode, ready_at[episode.env_id])

    def _push(self, episode: Episode, ready: float) -> None:
        heapq.heappush(self._thinking, (ready, next(self._tie), episode))
