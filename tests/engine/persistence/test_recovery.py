"""Environments outlive their host: what is kept, and what comes back."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import orjson
import pytest

from tests import batch_calls
from tests.engine.awaiting import ask
from tests.engine.persistence import oracles
from tests.engine.persistence.hosts import Cluster
from tests.waiting import HANG_S
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe, inspection
from verl_agent_env.engine.tasks import TaskFinder
from verl_agent_env.envs.base import Durability
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.registry import BUILT_IN, Registry
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    EnvironmentNotFoundError,
    MovedError,
    ReplayDivergedError,
    SequenceStaleError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.server.api.environments import EnvironmentHandlers
from verl_agent_env.server.http.idempotency import IdempotentRequests
from verl_agent_env.server.http.types import Request
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.operations import operations_of
from verl_agent_env.wire.records import Entry
from verl_agent_env.wire.results import EncodedStep

LAKE = CreateRequest(
    "frozen_lake",
    7,
    {"desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"], "is_slippery": True, "max_steps": 500},
)
SOKOBAN = CreateRequest("sokoban", 7, {"dim_room": [6, 6], "num_boxes": 1})
COUNTDOWN = CreateRequest("countdown", 7)
CHAT = CreateRequest("single_turn_chat", 7)
MOVES = ["right", "down", "right", "up", "left", "down"]


async def played(host: Host, request: CreateRequest, moves: Sequence[Any]) -> tuple[str, list[bytes]]:
    env_id, _ = await await_maybe(host.create(request))
    return env_id, await go_on(host, env_id, moves)


async def go_on(host: Host, env_id: str, moves: Sequence[Any], first_seq: int = 0) -> list[bytes]:
    return [
        (await await_maybe(host.step(env_id, move, seq))).to_json()
        for seq, move in enumerate(moves, start=first_seq)
    ]


ALL_KINDS = pytest.mark.parametrize(
    ("request_", "moves"),
    [(LAKE, MOVES), (SOKOBAN, MOVES), (COUNTDOWN, ["1+1", "2", "3"]), (CHAT, ["hi", "ho", "hu"])],
    ids=["frozen_lake", "sokoban", "countdown", "chat"],
)


@ALL_KINDS
@pytest.mark.parametrize("durability", ["journal", "snapshot", "relaxed"])
async def test_episode_goes_on_elsewhere_as_if_nothing_had_happened(
    cluster: Cluster, request_: CreateRequest, moves: list[str], durability: Durability
) -> None:
    alone = Host(Registry({spec.name: spec for spec in BUILT_IN}), HostLimits())
    _, expected = await played_until_end(alone, request_, moves)
    await alone.stop()
    name = alone.registry.kind(request_.env_name).name
    for cut in range(len(expected) + 1):
        first = await cluster.host({name: durability})
        env_id, _ = await await_maybe(first.create(request_))
        before = await go_on(first, env_id, moves[:cut])
        await first.recorder.journal.flush()  # type: ignore[union-attr]
        second = await cluster.host({name: durability})
        if cut:
            repeated = await await_maybe(second.step(env_id, moves[cut - 1], cut - 1))
            assert repeated.to_json() == before[-1]
        after = await go_on(second, env_id, moves[cut : len(expected)], cut)
        assert before + after == expected


async def played_until_end(
    host: Host, request: CreateRequest, moves: Sequence[Any]
) -> tuple[str, list[bytes]]:
    env_id, _ = await await_maybe(host.create(request))
    answers = []
    for move in moves:
        answer = await await_maybe(host.step(env_id, move))
        answers.append(answer.to_json())
        if answer.terminated or answer.truncated:
            break
    return env_id, answers


async def test_later_episodes_come_back_with_their_seed_and_options(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await played(first, LAKE, MOVES[:2])
    await await_maybe(first.reset(env_id, seed=99))
    answers = await go_on(first, env_id, MOVES[:2])
    second = await cluster.host()
    assert (await await_maybe(second.step(env_id, MOVES[1], 1))).to_json() == answers[1]
    instance = second.env_table.find(env_id)
    assert (instance.seed, instance.episode, instance.seq) == (99, 1, 2)
    assert instance.run_id == LAKE.run_id
    with pytest.raises(SequenceStaleError):
        await await_maybe(second.step(env_id, MOVES[0], 0))


async def test_reset_right_after_the_move_follows_on(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await played(first, LAKE, MOVES[:2])
    second = await cluster.host()
    await await_maybe(second.reset(env_id))
    third = await cluster.host()
    assert (await await_maybe(third.reset(env_id))).to_json()
    assert third.env_table.find(env_id).episode == 2


async def test_closed_environments_stay_closed_everywhere(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await played(first, LAKE, MOVES[:1])
    await await_maybe(first.close(env_id))
    second = await cluster.host()
    await await_maybe(second.close(env_id))
    with pytest.raises(EnvironmentClosedError):
        await await_maybe(second.step(env_id, "right"))
    with pytest.raises(EnvironmentNotFoundError):
        await await_maybe(second.close("000-" + "0" * 32))


async def test_environments_of_another_host_can_be_closed_here(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await played(first, LAKE, MOVES[:1])
    second = await cluster.host()
    await await_maybe(second.close(env_id))
    third = await cluster.host()
    with pytest.raises(EnvironmentClosedError):
        await await_maybe(third.step(env_id, "right"))


async def test_host_that_lost_its_slots_is_never_acknowledged(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await played(first, LAKE, MOVES[:2])
    second = await cluster.host()
    with pytest.raises(MovedError):
        await await_maybe(first.step(env_id, "up", 2))
    assert first.env_table.get(env_id) is None
    expected = await await_maybe(second.step(env_id, MOVES[2], 2))
    third = await cluster.host()
    assert (await await_maybe(third.step(env_id, MOVES[2], 2))).to_json() == expected.to_json()


async def test_batch_of_a_fenced_host_fails_and_runs_on_the_owner(cluster: Cluster) -> None:
    first = await cluster.host()
    created = await batch_calls.create(first, [LAKE] * 50)
    env_ids = [result[0] for result in created if isinstance(result, tuple)]
    second = await cluster.host()
    refused = await batch_calls.step(first, env_ids, ["right"] * 50, [0] * 50)
    assert all(isinstance(result, MovedError) for result in refused)
    done = await batch_calls.step(second, env_ids, ["right"] * 50, [0] * 50)
    assert all(isinstance(result, EncodedStep) for result in done)
    assert {second.env_table.find(env_id).seq for env_id in env_ids} == {1}


async def test_whole_batch_goes_on_elsewhere(cluster: Cluster) -> None:
    first = await cluster.host()
    created = await batch_calls.create(first, [LAKE, SOKOBAN, COUNTDOWN] * 20)
    env_ids = [result[0] for result in created if isinstance(result, tuple)]
    answers = await batch_calls.step(first, env_ids, ["right"] * 60, [0] * 60)
    second = await cluster.host()
    again = await batch_calls.step(second, env_ids, ["right"] * 60, [0] * 60)
    assert [_json(answer) for answer in again] == [_json(answer) for answer in answers]
    assert second.recovery is not None
    assert second.recovery.recovered == 60
    assert (await batch_calls.close(second, env_ids)).closed == 60


def _json(answer: EncodedStep | VerlAgentEnvError) -> bytes:
    assert isinstance(answer, EncodedStep), answer
    return answer.to_json()


async def test_answers_wait_until_they_are_written(cluster: Cluster) -> None:
    host = await cluster.host()
    env_id, _ = await await_maybe(host.create(LAKE))
    cluster.log.is_away = True
    step = asyncio.create_task(ask(host.step, env_id, "right", 0))
    again = asyncio.create_task(ask(host.step, env_id, "right", 0))
    done, _ = await asyncio.wait((step, again), timeout=0.3)
    assert not done
    cluster.log.is_away = False
    assert (await step).to_json() == (await again).to_json()
    assert [write.kind for group in cluster.log.commits for write in group] == ["create", "append"]


async def test_relaxed_answers_do_not_wait(cluster: Cluster) -> None:
    host = await cluster.host({"verl_env/frozen_lake-v1": "relaxed"})
    env_id, _ = await await_maybe(host.create(LAKE))
    cluster.log.is_away = True
    assert await asyncio.wait_for(ask(host.step, env_id, "right", 0), HANG_S)


async def test_patience_ends_with_a_typed_error_and_the_write_is_made_all_the_same(cluster: Cluster) -> None:
    host = await cluster.host(patience_s=0.2)
    env_id, _ = await await_maybe(host.create(LAKE))
    cluster.log.is_away = True
    with pytest.raises(StoreUnavailableError) as raised:
        await await_maybe(host.step(env_id, "right", 0))
    assert raised.value.may_have_run
    refused = await batch_calls.step(host, [env_id], ["down"], [1])
    assert isinstance(refused[0], StoreUnavailableError)
    assert refused[0].may_have_run
    cluster.log.is_away = False
    expected = await await_maybe(host.step(env_id, "down", 1))
    second = await cluster.host()
    assert (await await_maybe(second.step(env_id, "down", 1))).to_json() == expected.to_json()


async def test_lost_answers_of_the_log_apply_nothing_twice(cluster: Cluster) -> None:
    host = await cluster.host()
    env_id, _ = await await_maybe(host.create(LAKE))
    cluster.log.loses_answers = 3
    await go_on(host, env_id, MOVES)
    second = await cluster.host()
    await second.recoveries.ensure([env_id])
    assert second.env_table.find(env_id).seq == len(MOVES)


async def test_repeated_operation_is_answered_once_also_elsewhere(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await await_maybe(first.create(LAKE))
    answer = await await_maybe(first.step(env_id, "right", None, b"op-1"))
    assert await await_maybe(first.step(env_id, "right", None, b"op-1")) is answer
    second = await cluster.host()
    assert (await await_maybe(second.step(env_id, "right", None, b"op-1"))).to_json() == answer.to_json()
    assert second.env_table.find(env_id).seq == 1
    await await_maybe(second.step(env_id, "right", None, b"op-2"))
    assert second.env_table.find(env_id).seq == 2


@pytest.mark.parametrize("durability", ["journal", "snapshot", "relaxed"])
async def test_a_late_copy_of_a_reset_takes_no_step_away_elsewhere(
    cluster: Cluster, durability: Durability
) -> None:
    name = "verl_env/frozen_lake-v1"
    first = await cluster.host({name: durability})
    env_id, _ = await played(first, LAKE, MOVES[:2])
    for number in range(6):
        await await_maybe(first.reset(env_id, number, None, b"op-%d" % number))
    beginning = await await_maybe(first.reset(env_id, 9, None, b"op-9"))
    await go_on(first, env_id, MOVES[:2])
    await first.recorder.journal.flush()  # type: ignore[union-attr]
    second = await cluster.host({name: durability})
    assert (await await_maybe(second.reset(env_id, 9, None, b"op-9"))).to_json() == beginning.to_json()
    with pytest.raises(SequenceStaleError):
        await await_maybe(second.reset(env_id, 4, None, b"op-4"))
    assert second.env_table.find(env_id).seq == 2


@pytest.mark.parametrize("durability", ["journal", "snapshot", "relaxed"])
@pytest.mark.parametrize("before", [0, 1, 13, 14, 15, 16])
@pytest.mark.parametrize("is_emptied", [False, True])
async def test_a_batch_is_answered_again_elsewhere_as_it_was(
    cluster: Cluster, durability: Durability, before: int, is_emptied: bool
) -> None:
    name = "verl_env/frozen_lake-v1"
    first = await cluster.host({name: durability})
    env_id, _ = await await_maybe(first.create(LAKE))
    for number in range(before):
        await await_maybe(first.step(env_id, MOVES[number % 6], None, b"op-%d" % number))
    env_ids, operations = [env_id] * 6, operations_of(b"call", [env_id] * 6)
    seqs: list[int | None] = [None, None, before + 2, None, before + 4, before + 5]
    answers = [step.to_json() for step in await steps(first, env_ids, seqs, operations)]
    if is_emptied:
        # Written anew from memory with the next change, which here is refused.
        cluster.log.clear()
        for write in first.recorder.repersist(env_id):  # type: ignore[union-attr]
            first.recorder.journal.write(write)  # type: ignore[union-attr]
    await first.recorder.journal.flush()  # type: ignore[union-attr]
    second = await cluster.host({name: durability})
    assert [step.to_json() for step in await steps(second, env_ids, seqs, operations)] == answers
    assert second.env_table.find(env_id).seq == before + 6
    for number in range(max(0, before - 3), before):
        with pytest.raises(SequenceStaleError):
            await await_maybe(second.step(env_id, MOVES[number % 6], None, b"op-%d" % number))


async def steps(
    host: Host, env_ids: list[str], seqs: list[int | None], operations: list[bytes]
) -> list[EncodedStep]:
    results = await batch_calls.step(host, env_ids, MOVES[: len(env_ids)], seqs, operations)
    answers = [result for result in results if isinstance(result, EncodedStep)]
    assert len(answers) == len(env_ids), results
    return answers


@pytest.mark.parametrize("durability", ["journal", "snapshot"])
async def test_a_batch_that_was_done_in_part_goes_on_elsewhere(
    cluster: Cluster, durability: Durability
) -> None:
    name = "verl_env/frozen_lake-v1"
    first = await cluster.host({name: durability})
    env_id, _ = await await_maybe(first.create(LAKE))
    env_ids, operations = [env_id] * 5, operations_of(b"call", [env_id] * 5)
    begun = await steps(first, env_ids[:3], [None] * 3, operations[:3])
    second = await cluster.host({name: durability})
    answers = await steps(second, env_ids, [None] * 5, operations)
    assert [step.to_json() for step in answers[:3]] == [step.to_json() for step in begun]
    assert second.env_table.find(env_id).seq == 5


@pytest.mark.parametrize("durability", ["journal", "snapshot", "relaxed"])
async def test_a_batch_of_resets_is_answered_again_elsewhere_as_it_was(
    cluster: Cluster, durability: Durability
) -> None:
    name = "verl_env/frozen_lake-v1"
    first = await cluster.host({name: durability})
    env_id, _ = await await_maybe(first.create(CreateRequest("frozen_lake", 7, {"size": 5})))
    await await_maybe(first.step(env_id, "right", None, b"step"))
    env_ids, operations = [env_id] * 3, operations_of(b"call", [env_id] * 3)
    beginnings = await batch_calls.reset(first, env_ids, [1, 2, 3], None, operations)
    await first.recorder.journal.flush()  # type: ignore[union-attr]
    second = await cluster.host({name: durability})
    again = await batch_calls.reset(second, env_ids, [1, 2, 3], None, operations)
    assert [b.to_json() for b in again] == [b.to_json() for b in beginnings]  # type: ignore[union-attr]
    assert len({b.to_json() for b in again}) == 3  # type: ignore[union-attr]
    assert second.env_table.find(env_id).episode == 3
    with pytest.raises(SequenceStaleError):
        await await_maybe(second.step(env_id, "right", None, b"step"))


async def test_what_the_log_lost_is_repersisted(cluster: Cluster) -> None:
    host = await cluster.host()
    env_id, _ = await played(host, LAKE, MOVES[:3])
    cluster.log.clear()
    await go_on(host, env_id, MOVES[3:5], 3)
    second = await cluster.host()
    await second.recoveries.ensure([env_id])
    assert second.env_table.find(env_id).seq == 5


async def test_emptied_store_is_filled_from_memory(cluster: Cluster) -> None:
    host = await cluster.host()
    env_id, _ = await played(host, LAKE, MOVES[:3])
    idle_id, _ = await played(host, SOKOBAN, MOVES[:2])
    cluster.log.clear()
    cluster.store.clear()
    step = asyncio.create_task(ask(host.step, env_id, MOVES[3], 3))
    await asyncio.sleep(0.05)
    await cluster.empty(host)
    await step
    assert host.recorder is not None
    host.recorder.repersist_all(host.env_table.ids())
    await host.recorder.journal.flush()
    second = await cluster.host()
    await second.recoveries.ensure([env_id, idle_id])
    assert [second.env_table.find(each).seq for each in (env_id, idle_id)] == [4, 2]


async def test_kinds_that_cannot_come_back_are_lost_with_a_typed_error(cluster: Cluster) -> None:
    first = await cluster.host({"verl_env/frozen_lake-v1": "none"})
    env_id, _ = await played(first, LAKE, MOVES[:2])
    await first.recorder.journal.flush()  # type: ignore[union-attr]
    second = await cluster.host()
    with pytest.raises(EnvironmentLostError):
        await await_maybe(second.step(env_id, "right", 2))
    await await_maybe(second.close(env_id))


async def test_replay_that_gives_something_else_is_found_out(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await played(first, LAKE, MOVES[:3])
    kept = cluster.log._kept[env_id]
    entry = Entry.from_bytes(kept.entries[1])
    kept.entries[1] = entry._replace(digest=b"00000000").to_bytes()
    second = await cluster.host()
    for _ in range(2):
        with pytest.raises(ReplayDivergedError) as raised:
            await await_maybe(second.step(env_id, "right", 3))
        assert raised.value.seq == 1


async def test_long_episode_comes_back_without_being_played_from_its_beginning(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_id, _ = await played(await cluster.host(), LAKE, MOVES * 5)
    second, played_again = await cluster.host(), count_steps(monkeypatch)
    await second.recoveries.ensure([env_id])
    assert len(played_again) == 30 % 16
    assert len(orjson.loads(await inspection.trajectory(second, env_id))["steps"]) == 30


SPOILED_SNAPSHOTS: dict[str, Callable[[bytes], bytes]] = {
    "no snapshot": lambda _: b"[]",
    "another state": lambda whole: re.sub(rb'\\",(\d+),', lambda at: b'\\",%d,' % (int(at[1]) ^ 32), whole),
    "another answer": lambda whole: whole.replace(b",false,false,", b",true,false,"),
    "further than the journal": lambda whole: b"[88" + whole[2:],
    "a later format": lambda whole: whole.replace(b'"[', b'"[9'),
}


@pytest.mark.parametrize("spoil", SPOILED_SNAPSHOTS.values(), ids=list(SPOILED_SNAPSHOTS))
async def test_snapshot_that_leads_nowhere_costs_time_and_nothing_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    alone = Host(Registry({spec.name: spec for spec in BUILT_IN}), HostLimits())
    _, expected = await played(alone, LAKE, MOVES * 4)
    env_id, answers = await played(await cluster.host(), LAKE, MOVES * 3)
    kept = cluster.log._kept[env_id]
    assert kept.snapshot is not None
    spoiled = spoil(kept.snapshot)
    assert spoiled != kept.snapshot
    kept.snapshot = spoiled
    second, played_again = await cluster.host(), count_steps(monkeypatch)
    answers += await go_on(second, env_id, MOVES, 18)
    assert answers == expected
    assert len(played_again) >= 18 + len(MOVES)
    await alone.stop()


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The actions of all steps that FrozenLake takes from now on."""
    taken: list[Any] = []
    step = FrozenLakeEnv.step

    def noted(env: FrozenLakeEnv, action: Any) -> Any:
        taken.append(action)
        return step(env, action)

    monkeypatch.setattr(FrozenLakeEnv, "step", noted)
    return taken


async def test_recovery_that_needs_what_is_away_is_made_later_and_leaves_no_error_to_nobody(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    specs = (*BUILT_IN, oracles.BORROWER)
    first = await cluster.host(specs=specs)
    env_id, answers = await played(first, CreateRequest(oracles.BORROWER.name, 1), ["wait"])
    second = await cluster.host(specs=specs)
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    monkeypatch.setattr(oracles.outside, "is_away", True)
    with pytest.raises(MovedError):
        await await_maybe(second.step(env_id, "wait", 0))
    gc.collect()
    assert unseen == []
    (told,) = (record for record in caplog.records if getattr(record, "env_id", "") == env_id)
    assert getattr(told, "code", "") == "outside_call_failed"
    monkeypatch.setattr(oracles.outside, "is_away", False)
    assert (await await_maybe(second.step(env_id, "wait", 0))).to_json() == answers[0]


async def test_slots_are_warmed_up_at_once(cluster: Cluster) -> None:
    first = await cluster.host()
    created = await batch_calls.create(first, [LAKE] * 30)
    second = await cluster.host()
    assert second.recovery is not None
    assert await second.recovery.recover_slots(range(NUM_SLOTS)) == 30
    assert {result[0] for result in created if isinstance(result, tuple)} == set(second.env_table.ids())
    assert sum(second.env_table.created.values()) == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda host, env_id: inspection.trajectory(host, env_id),
        lambda host, env_id: inspection.render(host, env_id, "ansi"),
        lambda host, env_id: EnvironmentHandlers(
            host, host.create, cast(IdempotentRequests, None), cast(TaskFinder, None), cast(Any, None)
        ).state(Request(env_id, b"", b"", {})),
        lambda host, env_id: ask(host.close, env_id),
        lambda host, env_id: ask(host.reset, env_id),
    ],
    ids=["trajectory", "render", "state", "close", "reset"],
)
async def test_any_call_brings_an_environment_back(
    cluster: Cluster, ask: Callable[[Host, str], Awaitable[Any]]
) -> None:
    env_id, _ = await played(await cluster.host(), SOKOBAN, MOVES[:3])
    await ask(await cluster.host(), env_id)


async def test_two_who_ask_for_a_lost_environment_recover_it_once(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await played(first, SOKOBAN, MOVES[:3])
    second = await cluster.host()
    answers = await asyncio.gather(*(ask(second.step, env_id, MOVES[3], 3) for _ in range(5)))
    assert len({answer.to_json() for answer in answers}) == 1
    assert second.recovery is not None
    assert second.recovery.recovered == 1


async def test_a_batch_and_the_warm_up_recover_thousands_of_environments_once_each(cluster: Cluster) -> None:
    first = await cluster.host()
    await batch_calls.create(first, [LAKE] * 600)
    env_ids = first.env_table.ids()
    second = await cluster.host()
    assert second.recovery is not None
    # In another order: each of them meets environments that the other one is about to reach.
    _, answers, backwards = await asyncio.gather(
        second.recovery.recover_slots(range(NUM_SLOTS)),
        batch_calls.step(second, env_ids, ["right"] * len(env_ids), None),
        batch_calls.reset(second, env_ids[::-1], None, None),
    )
    assert not [error for error in (*answers, *backwards) if isinstance(error, VerlAgentEnvError)]
    assert second.recovery.recovered == len(env_ids)


def test_entry_survives_any_action() -> None:
    entry = Entry(b"op", b"0123abcd", orjson.dumps("a\nb\n\nc"))
    assert Entry.from_bytes(entry.to_bytes()) == entry
