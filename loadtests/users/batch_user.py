"""Many environments in one call, from beginning to end."""

from __future__ import annotations

import time
from argparse import Namespace

import gevent
from locust.exception import StopUser
from locust.runners import LocalRunner

from loadtests.users.api_user import PAUSE_AFTER_FAILURE_S, ApiUser
from loadtests.users.episodes import Episode


class BatchUser(ApiUser):
    """Initialises ``--batch-size`` environments in one call, steps all that have not ended in one call per turn until
    none is left, closes them in one call, and begins again."""

    abstract = False

    def on_start(self) -> None:
        self._episodes: list[Episode] = []
        self._running: list[Episode] = []
        self._rounds = 0

    @classmethod
    def episodes_of_one(cls, options: Namespace, /) -> int:
        return int(options.batch_size)

    def turn(self) -> float:
        """One call."""
        if self._running:
            return self._step_all()
        if self._episodes:
            return self._end_round()
        self._episodes = self.initialize(self.mix.draw(self.options.batch_size))
        self._running = list(self._episodes)
        return 0.0 if self._episodes else PAUSE_AFTER_FAILURE_S

    def close_all(self) -> None:
        self.boards.own.ended += len(self._running)
        self.close(self._episodes)

    def _step_all(self) -> float:
        sent_at = time.perf_counter()
        going, ended, lost = self.step(self._running)
        self.boards.own.ended += len(ended) + len(lost)
        self.record([time.perf_counter() - sent_at] * (len(going) + len(ended)))
        if len(going) + len(ended) + len(lost) == len(self._running):
            self._running = going
            return 0.0
        gone = {episode.env_id for episode in (*ended, *lost)}
        self._running = [episode for episode in self._running if episode.env_id not in gone]
        return PAUSE_AFTER_FAILURE_S

    def _end_round(self) -> float:
        self.close(self._episodes)
        self._episodes = []
        self._rounds += 1
        if self._rounds == self.options.rounds:
            self._end_test_if_last()
            raise StopUser
        return 0.0

    def _end_test_if_last(self) -> None:
        runner = self.environment.runner
        if isinstance(runner, LocalRunner) and runner.user_count == 1:
            # In a greenlet of its own, since it ends this one among others.
            gevent.spawn(runner.quit if self.options.headless else runner.stop)
