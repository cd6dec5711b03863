"""A wall clock that jumps: nothing that the server decides follows it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import verl_agent_env
from tests.server.conftest import Wire
from tests.server.served import Served, http_request
from tests.waiting import eventually

DAY_S = 86_400.0
SHOWN_ONLY = {
    "server/cluster/identity.py",
    "server/cluster/watch.py",
    "engine/episodes/collector.py",
    "engine/persistence/recorder.py",
    "cli/status.py",
}
"""Modules that read the wall clock: when a worker started, an environment was made, an episode was over and a curve's point is from, as
people are shown it."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served()
    now, jumps = time.time, itertools.cycle((0.0, 40 * DAY_S, -40 * DAY_S))
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    yield served
    served.stop()


def test_nothing_ends_too_early_and_nothing_is_done_twice_while_the_clock_jumps(served: Served) -> None:
    env_id = served.initialize(ttl_s=3600.0)
    kept = {"env_name": "frozen_lake", "seed": 3}
    first = [served.call("/api/batch/initialize", {"env_name": "frozen_lake", "num_envs": 2})["env_ids"]]
    for seq in range(10):
        answer = served.call(f"/api/environment/{env_id}/step", {"action": "up", "seq": seq})
        # Sent again, it is answered as it was.
        assert served.call(f"/api/environment/{env_id}/step", {"action": "up", "seq": seq}) == answer
        if answer["terminated"]:
            break
    reaped = served.app.env_host.env_table
    served.call("/api/environment/initialize", kept)
    eventually(lambda: len(reaped) == 4)
    assert served.app.env_host.env_table.get(first[0][0]) is not None
    # A connection that says nothing for a moment is not hung up on.
    wire = Wire(served.port)
    for _ in range(5):
        assert wire.send(http_request("GET", "/healthz"))
        assert wire.answer()[0] == 200
    wire.close()


def test_only_what_is_shown_is_read_from_the_wall_clock() -> None:
    package = Path(verl_agent_env.__file__).parent
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(
            call in path.read_text() for call in ("time.time(", "time.time_ns(", "datetime.now(", "utcnow(")
        )
    }
    assert readers == SHOWN_ONLY
