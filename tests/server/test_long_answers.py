"""Answers of many megabytes: sent as fast as they are read, counted until then, and whole."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from tests.server.conftest import Wire
from tests.server.served import Served, post
from tests.waiting import eventually

PROMPT_BYTES = 1_000_000
COUNT = 24
MAKE = orjson.dumps(
    {
        "env_name": "single_turn_chat",
        "num_envs": COUNT,
        "env_kwargs": {"task_prompt": "x" * PROMPT_BYTES},
    }
)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served(http_limits={"max_body_bytes": 4 << 20})
    yield served
    served.stop()


def test_a_long_answer_waits_for_its_reader_and_holds_up_nobody(served: Served) -> None:
    memory = served.app.dispatcher.memory
    slow = Wire(served.port)
    slow.send(post("/api/batch/initialize", MAKE))
    eventually(lambda: len(served.app.env_host.env_table) == COUNT)
    eventually(lambda: memory.used > COUNT * PROMPT_BYTES)
    env_id = served.initialize()
    for seq in range(3):
        served.call(f"/api/environment/{env_id}/step", {"action": "up", "seq": seq})
    assert memory.used > COUNT * PROMPT_BYTES
    status, headers, body = slow.answer()
    assert status == 200
    assert int(headers[b"content-length"]) == len(body)
    answer = orjson.loads(body)
    assert len(answer["env_ids"]) == COUNT
    assert all("x" * PROMPT_BYTES in str(observation) for observation in answer["observations"])
    assert b"connection" not in headers
    slow.close()
    eventually(lambda: memory.used == 0)


def test_who_leaves_in_the_middle_of_a_long_answer_leaves_nothing_counted(served: Served) -> None:
    memory = served.app.dispatcher.memory
    slow = Wire(served.port)
    slow.send(post("/api/batch/initialize", MAKE))
    eventually(lambda: memory.used > COUNT * PROMPT_BYTES)
    slow.close()
    eventually(lambda: memory.used == 0)
    served.initialize()
