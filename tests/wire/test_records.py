"""What is kept of an environment can be read by the version before, and by the one after."""

from __future__ import annotations

import dataclasses

import orjson
import pytest

from verl_agent_env.wire.records import AppliedStep, Header, Snapshot
from verl_agent_env.wire.results import EncodedStep

HEADER = Header(
    "verl_env/x-v0",
    {"size": 4},
    "run",
    60.0,
    "journal",
    2,
    7,
    None,
    1.5,
    "0.1.0",
    ["op-1"],
    "{}",
    [["op-0", 6, {"size": 5}]],
    ["step-1"],
)


def step(number: int) -> AppliedStep:
    answer = EncodedStep(b'["%d"]' % number, float(number), False, True, b'{"n":%d}' % number)
    return AppliedStep(b"op-%d" % number, b'"right"', answer)


def fields_of(snapshot: Snapshot) -> list[object]:
    steps = [(s.operation, s.action, s.answer.to_json()) for s in (*snapshot.earlier, snapshot.last)]
    return [snapshot.seq, snapshot.state, steps, snapshot.past_operations]


def test_header_comes_back() -> None:
    assert Header.from_json(HEADER.to_json()) == HEADER


def test_header_of_an_older_version_has_no_operations() -> None:
    fields = orjson.loads(HEADER.to_json())
    for name in ("resets", "earlier_resets", "past_operations"):
        del fields[name]
    expected = dataclasses.replace(HEADER, resets=(), earlier_resets=(), past_operations=())
    assert Header.from_json(orjson.dumps(fields)) == expected


def test_header_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    fields = orjson.loads(HEADER.to_json()) | {"colour": "blue"}
    assert Header.from_json(orjson.dumps(fields)) == HEADER


def test_other_json_is_no_header() -> None:
    with pytest.raises(ValueError, match="not the header"):
        Header.from_json(b'{"env_name": "x"}')


@pytest.mark.parametrize(("earlier", "past"), [((), ()), ((step(1), step(2)), ()), ((), (b"a", b"a 1"))])
def test_snapshot_comes_back(earlier: tuple[AppliedStep, ...], past: tuple[bytes, ...]) -> None:
    snapshot = Snapshot(3, b'{"x":1}', step(3), earlier, past)
    assert fields_of(Snapshot.from_json(snapshot.to_json())) == fields_of(snapshot)


def test_snapshot_of_an_older_version_knows_its_last_step_only() -> None:
    snapshot = Snapshot(3, b'{"x":1}', step(3))
    assert len(orjson.loads(snapshot.to_json())) == 9
    assert Snapshot.from_json(snapshot.to_json()).earlier == ()


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"[1, 2]", b'[1, "s", "op", "a", [], 0, 0, 0, {}, [1], []]']
)
def test_other_json_is_no_snapshot(text: bytes) -> None:
    with pytest.raises(ValueError, match="not the snapshot"):
        Snapshot.from_json(text)
