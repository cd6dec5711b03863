"""What all users share: a keep-alive connection of their own, and the counting of what goes wrong."""

from __future__ import annotations

import time
import uuid
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import gevent
import orjson
from geventhttpclient.client import HTTPClientPool
from locust import FastHttpUser, constant, task
from locust.env import Environment
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from loadtests.measurements import Boards, record_steps
from loadtests.options import mix_of
from loadtests.users.episodes import Episode, Kind, initialize_body, step_body

_TIMEOUT_S = 120.0
_BLOCK_BYTES = 1 << 18
_LONGEST_NAP_S = 0.5
PAUSE_AFTER_FAILURE_S = 1.0


class ItemError(Exception):
    """An item of a batch failed; its code says how."""


class CallError(Exception):
    """A call failed, and was counted as a failure."""

    def __init__(self, code: str, retryable: bool) -> None:
        super().__init__(code)
        self.code = code
        self.retryable = retryable
        """Whether the same call may succeed later."""


class ApiUser(FastHttpUser):
    """A client of the API with one connection."""

    abstract = True
    wait_time = constant(1)
    """Locust's own pause, only taken after a fault of the user itself."""
    boards: ClassVar[Boards] = Boards()
    """What all users of this process have done."""

    def __init__(self, environment: Environment) -> None:
        # Of its own, for its large blocks: by default the answer to a batch is read in thousands of little ones.
        self.client_pool = HTTPClientPool(
            # One call at a time; the other connection is for closing, should the user be killed within a call.
            concurrency=2,
            connection_timeout=_TIMEOUT_S,
            network_timeout=_TIMEOUT_S,
            block_size=_BLOCK_BYTES,
        )
        super().__init__(environment)
        assert environment.parsed_options is not None
        self.options: Namespace = environment.parsed_options
        self.mix = mix_of(self.options)
        self.run_id = f"loadtest-{uuid.uuid4().hex}"
        self._may_not_know_all = False
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.options.auth_token:
            self._headers["Authorization"] = f"Bearer {self.options.auth_token}"

    @classmethod
    def episodes_of_one(cls, options: Namespace, /) -> int:
        """How many episodes one user plays at once."""
        raise NotImplementedError

    @task
    def play(self) -> None:
        """Turn after turn, until the user is to stop.

        One task for all of them, since locust kills a user that is between two tasks, and may well hit it in its next
        call instead.
        """
        while self._state != LOCUST_STATE_STOPPING:
            self._pause(self.turn())
        raise StopUser

    def turn(self) -> float:
        """Do what is due; the seconds until something is due again."""
        raise NotImplementedError

    def on_stop(self) -> None:
        """Close what the user has made."""
        self.close_all()
        if self._may_not_know_all:
            self.call_batch("close", {"run_id": self.run_id})

    def close_all(self) -> None:
        """Close the environments that the user knows."""
        raise NotImplementedError

    def call(self, path: str, document: Mapping[str, Any], name: str = "") -> Any:
        """The JSON answer to a POST.

        Args:
            path: Of the call.
            document: Its body.
            name: Under which locust counts it, without ids; the path when not given.

        Raises:
            CallError: There was no answer, or it was an error.
        """
        request: dict[str, Any] = {"data": orjson.dumps(document), "headers": self._headers}
        with self.client.request("POST", path, name=name or path, catch_response=True, **request) as response:
            content = response.content
            if response.status_code == 200 and content is not None:
                return orjson.loads(content)
            failed = CallError("no_answer", retryable=True)
            if content is not None:
                failed = _read_error(response.status_code, content)
                response.failure(f"{response.status_code} {failed.code}")
        raise failed

    def call_batch(self, verb: str, document: Mapping[str, Any]) -> Any:
        """The JSON answer, or None when the call failed; each item that failed is counted under its code."""
        try:
            answer = self.call(f"/api/batch/{verb}", document)
        except CallError:
            return None
        self._count_item_errors(verb, answer["errors"])
        return answer

    def initialize(self, kinds: Sequence[Kind]) -> list[Episode]:
        """Make environments in one call and begin their episodes; fewer than asked for where some failed."""
        answer = self.call_batch("initialize", initialize_body(kinds, self.run_id))
        if answer is None:
            self.doubt()
            return []
        episodes = [
            Episode(kind, env_id, observation)
            for kind, env_id, observation in zip(
                kinds, answer["env_ids"], answer["observations"], strict=True
            )
            if env_id is not None
        ]
        self.boards.own.created += len(episodes)
        self.boards.own.begin(len(episodes))
        return episodes

    def step(self, episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode], list[Episode]]:
        """Take the next step of each episode in one call.

        Returns:
            Those that go on, those that have ended, and those whose step failed in a way that no repetition mends. The
            others, of which none of the three is said, are to be stepped again as they are.
        """
        answer = self.call_batch("step", step_body(episodes))
        if answer is None:
            return [], [], []
        going: list[Episode] = []
        ended: list[Episode] = []
        for episode, terminated, truncated in zip(
            episodes, answer["terminations"], answer["truncations"], strict=True
        ):
            if terminated is None:
                continue
            episode.advance()
            (ended if terminated or truncated else going).append(episode)
        lost = [episodes[error["index"]] for error in answer["errors"] if not error["retryable"]]
        return going, ended, lost

    def close(self, episodes: Sequence[Episode]) -> None:
        """Close environments in one call."""
        if not episodes:
            return
        answer = self.call_batch("close", {"env_ids": [episode.env_id for episode in episodes]})
        if answer is not None:
            self.boards.own.closed += answer["closed"]

    def doubt(self) -> None:
        """Remember that environments may have been made of which this user never heard; they are closed at its end."""
        self._may_not_know_all = True

    def record(self, latencies_s: Iterable[float]) -> None:
        """Count steps that were answered, with the time that each took."""
        record_steps(self.environment.stats, latencies_s, time.time())

    def _pause(self, seconds: float) -> None:
        """Sleep, but not long after the user is to stop."""
        until = time.perf_counter() + seconds
        while True:
            left = until - time.perf_counter()
            gevent.sleep(min(max(left, 0.0), _LONGEST_NAP_S))
            if left <= _LONGEST_NAP_S or self._state == LOCUST_STATE_STOPPING:
                return

    def _count_item_errors(self, verb: str, errors: Sequence[Mapping[str, Any]]) -> None:
        for code, count in Counter(error["code"] for error in errors).items():
            failure: dict[str, Any] = {
                "request_type": "ITEM",
                "name": f"{verb}: {code}",
                "response_time": None,
                "response_length": 0,
                "exception": ItemError(code),
                "context": {},
            }
            request_event: Any = self.environment.events.request
            for _ in range(count):
                request_event.fire(**failure)


def _read_error(status: int, content: bytes) -> CallError:
    """Of an answer that may come from a proxy, and be no JSON at all."""
    try:
        problem = orjson.loads(content)
        return CallError(problem["code"], problem["retryable"])
    except (ValueError, KeyError, TypeError):
        return CallError(repr(content[:60]), retryable=status >= 500)
