"""A shape that climbs to so many concurrent episodes, stage by stage: ``locust -f loadtests/locustfile.py,loadtests/climb.py``.

A file of its own, because locust follows a shape wherever it finds one, and takes no ``--users`` then.
"""

from __future__ import annotations

import math
import os
import time

from locust import LoadTestShape

from loadtests.measurements import Level, Mark
from loadtests.options import parse_stages, parse_watch
from loadtests.users.api_user import ApiUser

LOAD_GENERATOR = "load generator"
"""What locust's own processes are called where CPU is shown."""
_PATIENCE_S = 300.0


class Climb(LoadTestShape):
    """Adds users until the stage's episodes are alive, keeps them for its time, and goes on to the next one."""

    abstract = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stage = 0
        self._began = time.perf_counter()
        self._full: Mark | None = None
        """From when on all of the stage's episodes were alive."""
        self.levels: list[Level] = []
        """What the stages came to that are over."""
        self._goal: tuple[int, int] | None = None
        self._rate = 1.0

    def reset_time(self) -> None:
        """The test begins, maybe not for the first time."""
        super().reset_time()  # type: ignore[no-untyped-call]
        self._stage, self._began, self._full, self._goal = 0, time.perf_counter(), None, None
        self.levels = []

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many to add in a second; None at the end."""
        assert self.runner is not None
        assert self.runner.environment.parsed_options is not None
        options = self.runner.environment.parsed_options
        stages = parse_stages(options.stages)
        now = time.perf_counter()
        stage = stages[self._stage]
        if self._full is None and ApiUser.boards.total().alive >= stage.episodes:
            self._full = self._mark()
        # Where episodes cannot all be begun the test is to end as well; its failures tell why.
        given_up = now - self._began > options.ramp_s + stage.hold_s + _PATIENCE_S
        if given_up or (self._full is not None and now - self._full.at_s >= stage.hold_s):
            if self._full is not None:
                self.levels.append(self._full.until(self._mark(), stage.episodes))
            self._stage += 1
            self._full, self._began = None, now
            if self._stage == len(stages):
                return None
        return self._users(options.ramp_s, stages[self._stage].episodes)

    def _mark(self) -> Mark:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        watched = {LOAD_GENERATOR: [os.getpid()], **parse_watch(options.watch)}
        return Mark.now(self.runner.stats, watched)

    def _users(self, ramp_s: float, episodes: int) -> tuple[int, float]:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        user_class, *_ = self.runner.user_classes
        assert issubclass(user_class, ApiUser)
        users = math.ceil(episodes / user_class.episodes_of_one(options))
        # The rate must not change within a stage: locust takes another pair for another goal.
        if self._goal != (self._stage, users):
            missing = users - self.get_current_user_count()  # type: ignore[no-untyped-call]
            self._goal = (self._stage, users)
            self._rate = max(1.0, missing / max(ramp_s, 1.0))
        return users, self._rate
