"""One episode on a connection of its own."""

from __future__ import annotations

import contextlib
import random
import time
from argparse import Namespace

from loadtests.users.api_user import PAUSE_AFTER_FAILURE_S, ApiUser, CallError
from loadtests.users.episodes import Episode, draw_seed

_PATH = "/api/environment"


class EpisodeUser(ApiUser):
    """Plays one episode after the other, one call for each step, and thinks before each."""

    abstract = False

    def on_start(self) -> None:
        self._episode: Episode | None = None
        self._ready_at = time.perf_counter()

    @classmethod
    def episodes_of_one(cls, _: Namespace, /) -> int:
        return 1

    def turn(self) -> float:
        """One step; before the first one the environment is made, and after the last one closed."""
        try:
            if self._episode is None:
                self._begin()
            else:
                self._step(self._episode)
        except CallError as failed:
            self._give_up_on(failed)
            return PAUSE_AFTER_FAILURE_S
        think_s = self.options.think_s * (1.0 + self.options.think_spread * (2.0 * random.random() - 1.0))
        self._ready_at = time.perf_counter() + think_s
        return float(think_s)

    def close_all(self) -> None:
        self._end()

    def _begin(self) -> None:
        (kind,) = self.mix.draw(1)
        document = {
            "env_name": kind.env_name,
            "env_kwargs": kind.env_kwargs,
            "seed": draw_seed(),
            "run_id": self.run_id,
        }
        answer = self.call(f"{_PATH}/initialize", document)
        self._episode = Episode(kind, answer["env_id"], answer["observation"])
        self.boards.own.created += 1
        self.boards.own.begin(1)

    def _step(self, episode: Episode) -> None:
        document = {"action": episode.action, "seq": episode.seq}
        answer = self.call(f"{_PATH}/{episode.env_id}/step", document, f"{_PATH}/[id]/step")
        self.record([time.perf_counter() - self._ready_at])
        episode.advance()
        if answer["terminated"] or answer["truncated"]:
            self._end()

    def _give_up_on(self, failed: CallError) -> None:
        """A step that may yet be taken is sent again as it is; its number makes sure that it is not taken twice."""
        if self._episode is None:
            self.doubt()
        elif not failed.retryable:
            self._end()

    def _end(self) -> None:
        if self._episode is None:
            return
        env_id = self._episode.env_id
        self._episode = None
        self.boards.own.ended += 1
        with contextlib.suppress(CallError):
            self.call(f"{_PATH}/{env_id}/close", {}, f"{_PATH}/[id]/close")
            self.boards.own.closed += 1
