"""What is kept of an environment can be read by the version before, and by the one after."""

from __future__ import annotations

import dataclasses

import orjson
import pytest

from verl_agent_env.wire.records import Header

HEADER = Header("verl_env/x-v0", {"size": 4}, "run", 60.0, "journal", 2, 7, None, 1.5, "0.1.0", ["op-1"])


def test_header_comes_back() -> None:
    assert Header.from_json(HEADER.to_json()) == HEADER


def test_header_of_an_older_version_has_no_resets() -> None:
    fields = orjson.loads(HEADER.to_json())
    del fields["resets"]
    assert Header.from_json(orjson.dumps(fields)) == dataclasses.replace(HEADER, resets=())


def test_header_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    fields = orjson.loads(HEADER.to_json()) | {"colour": "blue"}
    assert Header.from_json(orjson.dumps(fields)) == HEADER


def test_other_json_is_no_header() -> None:
    with pytest.raises(ValueError, match="not the header"):
        Header.from_json(b'{"env_name": "x"}')
