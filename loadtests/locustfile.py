"""The load tests for locust: ``locust -f loadtests/locustfile.py --host http://127.0.0.1:8080 RolloutUser``.

Without a name of a user at the end it is RolloutUser. ``docs/loadtests.md`` says what there is and how to read it.
"""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

import gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtests.measurements import Timeline, step_entry
from loadtests.options import add_options, out_of
from loadtests.users.api_user import ApiUser
from loadtests.users.batch_user import BatchUser
from loadtests.users.episode_user import EpisodeUser
from loadtests.users.rollout_user import RolloutUser
from loadtests.verdict import Outcome, judge, print_verdict, write_reports

__all__ = ["BatchUser", "EpisodeUser", "RolloutUser"]

_SAMPLE_S = 1.0
_STOP_S = 60.0


class Recorder:
    """Watches a test and says at its end whether it passed."""

    def __init__(self, environment: Environment, options: Namespace) -> None:
        self._environment = environment
        self._options = options
        self._timeline = Timeline()
        self._sampler: gevent.Greenlet[[], None] | None = None
        self._began = 0.0

    def begin(self, **_: Any) -> None:
        """A test begins; in the web page there may be several."""
        ApiUser.boards.clear()
        self._timeline = Timeline()
        self._began = time.perf_counter()
        self._sampler = gevent.spawn(self._sample)

    def end(self, **_: Any) -> None:
        """All users have stopped."""
        if self._sampler is not None:
            self._sampler.kill()
            self._sampler = None
            self._take()
            write_reports(self._outcome(), self._timeline, self._options)

    def conclude(self, **_: Any) -> None:
        """Set the exit code."""
        if not self._timeline.samples:
            return
        outcome = self._outcome()
        # Once more: other processes report what they closed only now.
        write_reports(outcome, self._timeline, self._options)
        print_verdict(outcome)
        self._environment.process_exit_code = 0 if outcome.passed else 1

    def _sample(self) -> None:
        while True:
            gevent.sleep(_SAMPLE_S)
            self._take()

    def _take(self) -> None:
        stats = self._environment.stats
        self._timeline.take(
            time.perf_counter() - self._began,
            ApiUser.boards.total().alive,
            stats.total.num_requests,
            stats.total.num_failures,
            step_entry(stats).response_times,
        )

    def _outcome(self) -> Outcome:
        stats, runner = self._environment.stats, self._environment.runner
        return judge(
            self._options,
            self._timeline.samples,
            step_entry(stats).response_times,
            ApiUser.boards.total(),
            getattr(self._environment.shape_class, "levels", ()),
            requests=stats.total.num_requests,
            failures=stats.total.num_failures,
            exceptions=0 if runner is None else sum(row["count"] for row in runner.exceptions.values()),
        )


def _add_options(parser: LocustArgumentParser, **_: Any) -> None:
    add_options(parser)


def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    if not (options.user_classes or options.class_picker):
        environment.user_classes = [RolloutUser]
    # Users are to finish the call that they are in, and then close what they have made.
    environment.stop_timeout = environment.stop_timeout or _STOP_S
    if isinstance(environment.runner, WorkerRunner):
        hooks.report_to_master.add_listener(_send_board)
        return
    hooks.worker_report.add_listener(_receive_board)
    recorder = Recorder(environment, options)
    hooks.test_start.add_listener(recorder.begin)
    hooks.test_stop.add_listener(recorder.end)
    hooks.quitting.add_listener(recorder.conclude)
    out_of(options).mkdir(parents=True, exist_ok=True)


def _send_board(data: dict[str, Any], **_: Any) -> None:
    data["board"] = ApiUser.boards.report()


def _receive_board(client_id: str, data: dict[str, Any], **_: Any) -> None:
    ApiUser.boards.receive(client_id, data["board"])


hooks: Any = events
"""Locust's hooks, which have no types."""
hooks.init_command_line_parser.add_listener(_add_options)
hooks.init.add_listener(_prepare)
