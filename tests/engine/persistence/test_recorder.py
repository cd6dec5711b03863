"""What is recorded of a step, and what a step comes to when that fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.engine.persistence.hosts import Cluster
from tests.engine.persistence.ledger import LIVE, PLAYED_AGAIN, SPECS, Ledger
from verl_agent_env.engine import CreateRequest, Host, await_maybe, inspection
from verl_agent_env.envs.mcp_chat.configuration import Configuration, use_configuration
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.errors import (
    ArgumentsTooLargeError,
    EnvironmentFailedError,
    HistoryFullError,
    InvalidEnvArgumentsError,
    SequenceConflictError,
)

BROKEN = pytest.mark.parametrize(
    "broken",
    [ValueError("told to"), SystemExit(3), {"no": "bytes"}, "text", b"\xff no text"],
    ids=["raises", "exits", "no_bytes", "text", "no_utf8"],
)


@pytest.fixture(autouse=True)
def _mended() -> Iterator[None]:
    yield
    Ledger.broken = None


async def made(host: Host, kind: str, seed: int = 1) -> str:
    env_id, _ = await await_maybe(host.create(CreateRequest(f"ledger/{kind}-v0", seed)))
    return env_id


async def added(host: Host, env_id: str, *numbers: int | str, first_seq: int = 0) -> list[Any]:
    """What the environment shows after each of the numbers."""
    answers = [
        await await_maybe(host.step(env_id, number, seq))
        for seq, number in enumerate(numbers, start=first_seq)
    ]
    return [int(orjson.loads(answer.observation)[0]["content"]) for answer in answers]


@BROKEN
@pytest.mark.parametrize("kind", PLAYED_AGAIN)
async def test_snapshot_that_fails_costs_a_journalled_episode_nothing(
    cluster: Cluster, kind: str, broken: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = await cluster.host(specs=SPECS)
    Ledger.broken = broken
    env_id = await made(first, kind)
    with caplog.at_level(logging.WARNING):
        # Two snapshots are due within these.
        assert await added(first, env_id, *[1] * 40) == list(range(2, 42))
    assert first.recorder is not None
    assert first.recorder.failed_snapshots == {f"ledger/{kind}-v0": 3}
    assert len([record for record in caplog.records if record.exc_info]) == 1
    second = await cluster.host(specs=SPECS)
    assert await added(second, env_id, 1, first_seq=39) == [41]
    assert await added(second, env_id, 5, first_seq=40) == [46]


@BROKEN
@pytest.mark.parametrize("kind", [*PLAYED_AGAIN, *LIVE])
async def test_step_whose_state_cannot_be_kept_fails_and_leaves_everything_as_it_was(
    cluster: Cluster, kind: str, broken: Any
) -> None:
    durabilities: dict[str, Any] = {f"ledger/{kind}-v0": "snapshot"}
    first = await cluster.host(durabilities, specs=SPECS)
    env_id = await made(first, kind)
    assert await added(first, env_id, 1, 1) == [2, 3]
    Ledger.broken = broken
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(first.step(env_id, 100, 2))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(first.reset(env_id, 50))
    assert first.env_table.find(env_id).seq == 2
    Ledger.broken = None
    assert await added(first, env_id, 1, first_seq=1) == [3]
    assert await added(first, env_id, 1, first_seq=2) == [4]
    second = await cluster.host(durabilities, specs=SPECS)
    assert await added(second, env_id, 1, 1, first_seq=2) == [4, 5]


@pytest.mark.parametrize("kind", [*PLAYED_AGAIN, *LIVE])
async def test_environment_whose_state_cannot_be_kept_is_not_made(cluster: Cluster, kind: str) -> None:
    host = await cluster.host({f"ledger/{kind}-v0": "snapshot"}, specs=SPECS)
    Ledger.broken = ValueError("told to")
    with pytest.raises(EnvironmentFailedError):
        await made(host, kind)
    assert not host.env_table.ids()
    assert not cluster.log.commits


@pytest.mark.parametrize("kind", LIVE)
async def test_live_episode_survives_a_step_that_raises_where_its_state_is_kept(
    cluster: Cluster, kind: str
) -> None:
    host = await cluster.host(specs=SPECS)
    env_id = await made(host, kind)
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 0))
    assert await added(host, env_id, 1, 1) == [2, 3]
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 2))
    assert await added(host, env_id, 1, first_seq=2) == [4]


@pytest.mark.parametrize("kind", LIVE)
async def test_live_episode_that_took_no_step_goes_on_elsewhere_as_it_began(
    cluster: Cluster, kind: str
) -> None:
    first = await cluster.host(specs=SPECS)
    env_id = await made(first, kind, seed=7)
    second = await cluster.host(specs=SPECS)
    assert await added(second, env_id, 1) == [8]


async def test_state_of_a_broken_environment_is_written_to_a_store_that_was_emptied(cluster: Cluster) -> None:
    host = await cluster.host({"ledger/inline-v0": "snapshot"}, specs=SPECS)
    broken, fresh, whole = [await made(host, "inline") for _ in range(3)]
    await added(host, broken, 1, 1)
    await added(host, whole, 1, 1)
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(broken, "raise", 2))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(fresh, "raise", 0))
    cluster.log.clear()
    assert host.recorder is not None
    host.recorder.repersist_all(host.env_table.ids())
    await host.recorder.journal.flush()
    second = await cluster.host({"ledger/inline-v0": "snapshot"}, specs=SPECS)
    assert await added(second, broken, 1, 1, first_seq=1) == [3, 4]
    assert await added(second, whole, 1, 1, first_seq=1) == [3, 4]
    assert await added(second, fresh, 1) == [2]


LONG = 60_000
LAKE = CreateRequest(
    "frozen_lake",
    7,
    {"desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"], "is_slippery": True, "max_steps": 500},
)


def kept_bytes(cluster: Cluster, env_id: str) -> int:
    return sum(map(len, cluster.log._kept[env_id].entries))


@pytest.mark.parametrize(
    "action",
    [
        "x" * LONG,
        "<think>" + "so " * LONG + "</think><answer>right</answer>",
        {"role": "assistant", "content": "x" * LONG, "tool_calls": []},
        {
            "role": "assistant",
            "content": "y" * LONG,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "move_down", "arguments": "{}"}}
            ],
        },
        {"tool_calls": [{"id": "c2", "function": {"name": "fly", "arguments": {"to": "x" * LONG}}}]},
        {"tool_calls": [{"id": "c3", "function": {"name": "move_down", "arguments": "x" * LONG}}]},
    ],
    ids=["text", "thoughts", "message", "call", "unknown tool", "malformed call"],
)
async def test_long_action_is_kept_as_what_was_read_of_it(cluster: Cluster, action: Any) -> None:
    first = await cluster.host()
    alone = Host(first.registry, first.limits)
    env_id, _ = await await_maybe(first.create(LAKE))
    twin, _ = await await_maybe(alone.create(LAKE))
    # Eighteen: one of the snapshots stands among them.
    expected = [(await await_maybe(alone.step(twin, action, seq))).to_json() for seq in range(18)]
    assert [(await await_maybe(first.step(env_id, action, seq))).to_json() for seq in range(18)] == expected
    assert kept_bytes(cluster, env_id) < 18 * 400
    second = await cluster.host()
    # The last one is known again, and told from another one.
    assert (await await_maybe(second.step(env_id, action, 17))).to_json() == expected[-1]
    with pytest.raises(SequenceConflictError):
        await await_maybe(second.step(env_id, "z" * LONG, 17))
    assert (await await_maybe(second.step(env_id, "right", 18))).to_json() == (
        await await_maybe(alone.step(twin, "right", 18))
    ).to_json()
    trajectory = orjson.loads(await inspection.trajectory(second, env_id))
    assert trajectory["complete"]
    assert [step["observation"] for step in trajectory["steps"][:18]] == [
        orjson.loads(answer)["observation"] for answer in expected
    ]
    await alone.stop()


async def test_actions_of_which_nothing_is_read_are_kept_as_they_are(cluster: Cluster) -> None:
    first = await cluster.host(specs=SPECS)
    env_id = await made(first, "inline")
    await added(first, env_id, *["1".rjust(2_000)] * 3)
    assert kept_bytes(cluster, env_id) > 6_000
    second = await cluster.host(specs=SPECS)
    assert await added(second, env_id, "1".rjust(2_000), 5, first_seq=2) == [4, 9]


@pytest.mark.parametrize("kind", PLAYED_AGAIN)
async def test_long_history_begins_anew_with_its_state(cluster: Cluster, kind: str) -> None:
    action = "1".rjust(2_000)
    first = await cluster.host(specs=SPECS, max_journal_bytes=20_000)
    env_id = await made(first, kind)
    assert await added(first, env_id, *[action] * 40) == list(range(2, 42))
    # Of forty steps two times sixteen are said by the state.
    assert kept_bytes(cluster, env_id) < 9 * 2_100
    instance = first.env_table.find(env_id)
    assert (instance.first_seq, len(instance.actions or ())) == (32, 8)
    assert instance.history_bytes < 9 * 2_100
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(first.step(env_id, "raise", 40))
    assert await added(first, env_id, 1, first_seq=40) == [42]
    assert not orjson.loads(await inspection.trajectory(first, env_id))["complete"]
    cluster.log.clear()
    assert first.recorder is not None
    first.recorder.repersist_all([env_id])
    await first.recorder.journal.flush()
    second = await cluster.host(specs=SPECS)
    assert await added(second, env_id, 1, 7, first_seq=40) == [42, 49]
    assert not orjson.loads(await inspection.trajectory(second, env_id))["complete"]


async def test_history_begins_anew_right_before_its_end(cluster: Cluster) -> None:
    first = await cluster.host(specs=SPECS, max_journal_bytes=20_000)
    env_id = await made(first, "inline")
    await added(first, env_id, *["1".rjust(2_000)] * 16)
    assert kept_bytes(cluster, env_id) == 0
    second = await cluster.host(specs=SPECS)
    assert await added(second, env_id, "1".rjust(2_000), 5, first_seq=15) == [17, 22]


async def test_step_that_a_full_history_has_no_room_for_changes_nothing(cluster: Cluster) -> None:
    Ledger.broken = ValueError("told to")
    host = await cluster.host(specs=SPECS, max_journal_bytes=1_000, max_kept_bytes=9_000)
    for kind in PLAYED_AGAIN:
        env_id = await made(host, kind)
        await added(host, env_id, *["1".rjust(2_000)] * 5)
        with pytest.raises(HistoryFullError) as full:
            await await_maybe(host.step(env_id, 1, 5))
        assert full.value.max_kept_bytes == 9_000
        # What was done is known, and another episode has room.
        assert await added(host, env_id, "1".rjust(2_000), first_seq=4) == [6]
        await await_maybe(host.reset(env_id, 1))
        assert await added(host, env_id, 1) == [2]


async def test_what_has_a_state_elsewhere_cannot_be_kept_by_its_own(cluster: Cluster) -> None:
    host = await cluster.host({"verl_env/mcp_chat-v0": "snapshot"})
    server = ServerDefinition(name="elsewhere", url="http://127.0.0.1:9/mcp")
    use_configuration(Configuration({server.name: server}, False))
    try:
        with pytest.raises(InvalidEnvArgumentsError, match="snapshot"):
            await await_maybe(host.create(CreateRequest("mcp_chat")))
    finally:
        use_configuration(None)
    assert not host.env_table.ids()


async def test_arguments_too_large_to_be_kept_make_nothing(cluster: Cluster) -> None:
    host = await cluster.host(specs=SPECS, max_arguments_bytes=50)
    with pytest.raises(ArgumentsTooLargeError):
        await await_maybe(host.create(CreateRequest("ledger/inline-v0", 1, {"text": "x" * 50})))
    assert not host.env_table.ids()
    await await_maybe(host.create(CreateRequest("ledger/inline-v0", 1, {"text": "x" * 30})))


async def test_arguments_that_cannot_be_kept_make_nothing(cluster: Cluster) -> None:
    host = await cluster.host(specs=SPECS)
    nested: Any = []
    for _ in range(300):
        nested = [nested]
    with pytest.raises(InvalidEnvArgumentsError):
        await await_maybe(host.create(CreateRequest("ledger/inline-v0", 1, {"nested": nested})))
    assert not host.env_table.ids()
    assert await added(host, await made(host, "inline"), 1) == [2]


@pytest.mark.parametrize("kind", PLAYED_AGAIN)
async def test_first_actions_are_written_at_once_with_their_beginning(cluster: Cluster, kind: str) -> None:
    """In two writes, a worker that dies between them would leave an episode that nobody asked for."""
    host = await cluster.host(specs=SPECS)
    env_id = await made(host, kind)
    cluster.log.commits.clear()
    await await_maybe(host.begin_and_play(env_id, 5, None, [1, 2, 3]))
    writes = [write for commit in cluster.log.commits for write in commit if write.env_id == env_id]
    assert [(write.kind, write.seq, len(write.entries)) for write in writes] == [("put", 3, 3)]
    assert await added(await cluster.host(specs=SPECS), env_id, 1, first_seq=3) == [5 + 1 + 2 + 3 + 1]
