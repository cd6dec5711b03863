"""Long actions are recorded by what was read of them, and known again."""

from __future__ import annotations

import orjson
import pytest

from verl_agent_env.messages import ToolCall
from verl_agent_env.wire.actions import MAX_WHOLE_BYTES, brief, calls_in, identity_in, identity_of, shown

LONG = orjson.dumps("x" * 5_000)
CALLS = [ToolCall("walk", {"to": [1, "ä"]}, "c1"), ToolCall("", {}, None, "It cannot be read.")]


def test_short_action_is_its_own_identity() -> None:
    longest = b"1" * MAX_WHOLE_BYTES
    assert identity_of(longest) == identity_in(longest) == longest
    assert calls_in(longest) is None
    assert shown(longest) == longest


def test_identity_of_a_long_action_is_short_json_that_tells_it_from_others() -> None:
    identity = identity_of(LONG)
    assert len(identity) < 50
    assert orjson.dumps(orjson.loads(identity)) == identity
    assert identity != identity_of(LONG[:-2] + b'y"')
    assert identity_in(LONG) == identity


def test_calls_come_back_with_the_identity_of_the_action() -> None:
    recorded = brief(LONG, CALLS)
    assert len(recorded) < 200
    assert calls_in(recorded) == CALLS
    assert identity_in(recorded) == identity_of(LONG)
    assert orjson.loads(shown(recorded))["calls"][0] == {
        "name": "walk",
        "arguments": {"to": [1, "ä"]},
        "id": "c1",
        "fault": None,
    }


@pytest.mark.parametrize("arguments", [{"text": "x" * 6_000}, {"no json": {1, 2}}], ids=["longer", "no json"])
def test_calls_that_are_no_gain_leave_the_action_as_it_is(arguments: dict[str, object]) -> None:
    assert brief(LONG, [ToolCall("walk", arguments)]) == LONG
