"""Calls on many environments."""

from __future__ import annotations

import asyncio
import enum
import gc
import weakref
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests import batch_calls
from tests.engine.conftest import KINDS
from tests.engine.probes import Controls
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.execution.slices import Slices
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentFailedError,
    EnvironmentNotFoundError,
    InternalError,
    InvalidRequestError,
    SequenceGapError,
    SequenceStaleError,
    UnknownEnvNameError,
    VerlAgentEnvError,
)
from verl_agent_env.turns import Tenant, current_tenant
from verl_agent_env.types import tag_of_holder
from verl_agent_env.wire.operations import operations_of
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep

Create = Callable[..., Any]


def total(answer: Any) -> int:
    assert isinstance(answer, EncodedStep | EncodedReset)
    return int(orjson.loads(answer.observation)[0]["content"])


@pytest.fixture
async def ids(host: Host, create: Create) -> list[str]:
    """Environments of all kinds in turn, of the seeds 0, 10, 20, …"""
    return [await create(host, KINDS[i % len(KINDS)], seed=10 * i) for i in range(12)]


async def test_creates_in_order_and_fails_alone(host: Host, controls: Controls) -> None:
    names = ["inline", "thread", "none", "async", "missing", "live", "inline"]
    requests = [CreateRequest(f"probe/{name}-v0", seed) for seed, name in enumerate(names)]
    results = await batch_calls.create(host, requests)
    assert isinstance(results[2], UnknownEnvNameError)
    assert isinstance(results[4], EnvironmentFailedError)
    for position in (0, 1, 3, 5, 6):
        result = results[position]
        assert isinstance(result, tuple)
        assert total(result[1]) == position
        assert host.env_table.find(result[0]).kind.name == f"probe/{names[position]}-v0"
    assert len(host.env_table) == 5


async def test_steps_in_order_whatever_the_kind(host: Host, ids: list[str]) -> None:
    answers = await batch_calls.step(host, ids, [str(i) for i in range(12)], None)
    assert [total(answer) for answer in answers] == [11 * i for i in range(12)]


async def test_errors_stand_in_their_places(host: Host, ids: list[str]) -> None:
    host.close(ids[3])
    mixed = [ids[0], "000-none", ids[1], ids[2], ids[3], ids[4], ids[6]]
    deep = orjson.loads(b"[" * 500 + b"]" * 500)
    actions = ["1", "1", "1", "raise", "1", "1", deep]
    answers = await batch_calls.step(host, mixed, actions, [0, 0, 0, 0, 0, 5, 0])
    kinds = [type(answer) for answer in answers]
    assert kinds == [
        EncodedStep,
        EnvironmentNotFoundError,
        EncodedStep,
        EnvironmentFailedError,
        EnvironmentClosedError,
        SequenceGapError,
        InvalidRequestError,
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_environment_that_stands_twice_takes_its_actions_in_order(
    host: Host, create: Create, kind: str
) -> None:
    first, second = await create(host, kind, seed=0), await create(host, kind, seed=0)
    env_ids = [first, second, first, first, second]
    answers = await batch_calls.step(host, env_ids, ["1", "2", "3", "4", "5"], [0, 0, 1, 2, 1])
    assert [total(answer) for answer in answers] == [1, 2, 4, 8, 7]


async def test_resets_in_order(host: Host, ids: list[str]) -> None:
    seeds: list[int | None] = [100 + i for i in range(12)]
    seeds[4] = None
    options: list[dict[str, Any] | None] = [None] * 12
    options[5] = {"start": 7}
    answers = await batch_calls.reset(host, [*ids, "000-none"], [*seeds, 1], [*options, None])
    expected: list[int | None] = [*seeds]
    expected[4], expected[5] = 40, 7
    assert [total(answer) for answer in answers[:12]] == expected
    assert isinstance(answers[12], EnvironmentNotFoundError)


async def test_each_reset_is_known_by_its_own_id(host: Host, ids: list[str]) -> None:
    operations = [b"op-%d" % number for number in range(len(ids))]
    await batch_calls.reset(host, ids, [1] * 12, None, operations)
    await batch_calls.step(host, ids, ["1"] * 12, [0] * 12)
    operations[3] = b"another"
    await batch_calls.reset(host, ids, [1] * 12, None, operations)
    assert [host.env_table.find(env_id).seq for env_id in ids] == [1] * 3 + [0] + [1] * 8


async def test_resets_without_columns(host: Host, ids: list[str]) -> None:
    answers = await batch_calls.reset(host, ids, None, None)
    assert [total(answer) for answer in answers] == [10 * i for i in range(12)]


async def test_closes_what_is_there(host: Host, ids: list[str]) -> None:
    host.close(ids[0])
    closed, errors = await batch_calls.close(host, [*ids, "000-none"])
    assert closed == 12
    assert [(position, type(error)) for position, error in errors] == [(12, EnvironmentNotFoundError)]
    assert len(host.env_table) == 0


async def test_nothing_is_answered_with_nothing(host: Host) -> None:
    assert await batch_calls.create(host, []) == []
    assert await batch_calls.step(host, [], [], None) == []
    assert await batch_calls.close(host, []) == (0, [])


async def test_columns_must_have_one_length(host: Host, ids: list[str]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        await batch_calls.step(host, ids, ["1"] * 11, None)


async def test_slow_kinds_run_side_by_side(
    host: Host, create: Create, controls: Controls, begun: Create
) -> None:
    env_ids = [await create(host, kind) for kind in ("thread", "async") * 4]
    batch = asyncio.create_task(batch_calls.step(host, env_ids, ["wait"] * 8, None))
    await begun(8)
    controls.gate.set()
    assert all(isinstance(answer, EncodedStep) for answer in await batch)


async def test_large_batch_lets_others_through(make_host: Callable[..., Host], create: Create) -> None:
    host = make_host(yield_after_s=1e-9)
    env_id = await create(host, "inline", seed=0)
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(host.env_table.find(env_id).seq)
            await asyncio.sleep(0)

    other = asyncio.create_task(watch())
    await batch_calls.step(host, [env_id] * 200, ["1"] * 200, None)
    other.cancel()
    assert len(set(seen)) > 100


async def test_defect_of_ours_in_one_item_leaves_the_others(
    host: Host, ids: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for position in (0, 2):
        # No action list, no number: what must never happen.
        host.env_table.find(ids[position]).seq = "x"  # type: ignore[assignment]
    answers = await batch_calls.step(host, ids, ["1"] * 12, [0] * 12)
    assert [i for i, answer in enumerate(answers) if isinstance(answer, InternalError)] == [0, 2]
    assert sum(isinstance(answer, EncodedStep) for answer in answers) == 10
    assert (
        len(
            [
                record
                for record in caplog.records
                if record.message == "batch item failed with an internal error"
            ]
        )
        == 2
    )


# --- a part that is sent again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seqs", [None, [None] * 6, [0, None, 1, None, 2, None], [0, 0, 1, 1, 2, 2]])
async def test_an_environment_that_stands_twice_takes_each_step_once_however_often_it_is_sent(
    host: Host, create: Create, kind: str, seqs: list[int | None] | None
) -> None:
    pair = [await create(host, kind, seed=0) for _ in range(2)]
    env_ids, actions = pair * 3, ["1", "10", "100", "1000", "10000", "100000"]
    operations = operations_of(b"call", env_ids)
    answers = await batch_calls.step(host, env_ids, actions, seqs, operations)
    assert [total(answer) for answer in answers] == [1, 10, 101, 1010, 10101, 101010]
    # As a whole, in a part, and with the first answer lost of those that are at work still.
    again = await batch_calls.step(host, env_ids, actions, seqs, operations)
    assert [total(answer) for answer in again] == [total(answer) for answer in answers]
    rest = await batch_calls.step(host, env_ids[1:], actions[1:], seqs and seqs[1:], operations[1:])
    assert [total(answer) for answer in rest] == [total(answer) for answer in answers[1:]]
    assert [host.env_table.find(env_id).seq for env_id in pair] == [3, 3]


@pytest.mark.parametrize("kind", KINDS)
async def test_copies_of_a_part_that_are_at_work_side_by_side_take_each_step_once(
    make_host: Callable[..., Host], create: Create, kind: str
) -> None:
    host = make_host(yield_after_s=1e-9)
    env_ids = [await create(host, kind, seed=0) for _ in range(20)] * 2
    operations = operations_of(b"call", env_ids)
    copies = await asyncio.gather(
        *(batch_calls.step(host, env_ids, ["1"] * 40, None, operations) for _ in range(3))
    )
    for answers in copies:
        assert [total(answer) for answer in answers] == [1] * 20 + [2] * 20
    assert {host.env_table.find(env_id).seq for env_id in env_ids} == {2}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_environment_that_is_reset_twice_shows_both_beginnings_again(
    host: Host, create: Create, kind: str
) -> None:
    env_ids = [await create(host, kind)] * 3
    operations = operations_of(b"call", env_ids)
    options = [{"start": 7}, None, {"start": 9}]
    answers = await batch_calls.reset(host, env_ids, [1, 2, 3], options, operations)
    assert [total(answer) for answer in answers] == [7, 2, 9]
    await await_maybe(host.step(env_ids[0], "1"))
    again = await batch_calls.reset(host, env_ids, [1, 2, 3], options, operations)
    assert [total(answer) for answer in again] == [7, 2, 9]
    instance = host.env_table.find(env_ids[0])
    assert (instance.episode, instance.seq) == (3, 1)


async def test_what_failed_in_a_part_is_not_done_after_what_followed(
    host: Host, create: Create, controls: Controls
) -> None:
    env_id = await create(host, "inline", seed=0)
    controls.broken.add("1")
    operations = operations_of(b"call", [env_id] * 2)
    first, second = await batch_calls.step(host, [env_id] * 2, ["1", "10"], None, operations)
    assert isinstance(first, EnvironmentFailedError)
    controls.broken.clear()
    first, again = await batch_calls.step(host, [env_id] * 2, ["1", "10"], None, operations)
    assert isinstance(first, SequenceStaleError)
    assert total(again) == total(second) == 10


async def test_items_that_run_elsewhere_are_begun_in_turns_with_others(
    make_host: Callable[..., Host], create: Create
) -> None:
    class Counting(Slices):
        """Counts the turns that were waited for."""

        turns = 0

        async def turn(self) -> None:
            self.turns += 1
            await super().turn()

    host = make_host(yield_after_s=1e-9)
    host.slices = slices = Counting()
    env_ids = [await create(host, "async") for _ in range(200)]
    answers = await batch_calls.step(host, env_ids, ["1"] * 200, None)
    assert len({total(answer) for answer in answers}) == 1
    # One before it is looked at, and one before it begins.
    assert slices.turns >= 390


@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
async def test_answers_of_a_batch_with_errors_are_gone_as_soon_as_they_are_let_go(
    host: Host, create: Create, kind: str
) -> None:
    env_ids = [await create(host, kind) for _ in range(3)]
    host.close(env_ids[0])
    gc.collect()
    gc.disable()
    try:
        answers = await batch_calls.step(host, [*env_ids, "000-none"], ["1"] * 4, [0, 5, 0, 0])
        assert [type(answer) for answer in answers[:2]] == [EnvironmentClosedError, SequenceGapError]
        kept = [weakref.ref(answer) for answer in answers if isinstance(answer, VerlAgentEnvError)]
        assert len(kept) == 3
        del answers
        assert not [answer for answer in kept if answer() is not None]
    finally:
        gc.enable()


async def test_batch_checks_large_arguments_once_and_its_environments_share_them(
    make_host: Callable[..., Host],
) -> None:
    host, chat = make_host(), {"task_prompt": "x" * 30_000}
    requests = [CreateRequest("verl_env/single_turn_chat-v0", seed, chat) for seed in range(5)]
    made = [one for one in await batch_calls.create(host, requests) if isinstance(one, Created)]
    assert len(made) == 5
    assert len({id(host.env_table.find(one.env_id).arguments) for one in made}) == 1


async def test_batch_has_slices_for_the_run_of_its_first_environment(
    make_host: Callable[..., Host], create: Create
) -> None:
    host, seen = make_host(yield_after_s=1e-9), set()

    class Seeing(Slices):
        """Notes who waits."""

        async def turn(self) -> None:
            seen.add(current_tenant.get())
            await super().turn()

    host.slices = Seeing()
    tag = tag_of_holder("someone")
    requests = [CreateRequest("probe/inline-v0", 1, run_id="training", tag=tag)] * 2
    made = await batch_calls.create(host, requests)
    env_ids = [created.env_id for created in made if isinstance(created, Created)]
    await batch_calls.step(host, env_ids, ["1", "1"], None)
    assert seen == {Tenant(tag, "training")}


async def test_run_that_asks_for_many_threads_leaves_some_to_others(
    make_host: Callable[..., Host], create: Create
) -> None:
    host, done = make_host(max_threads=1), []

    async def step(name: str, env_id: str) -> None:
        await await_maybe(host.step(env_id, "1"))
        done.append(name)

    many = [await create(host, "thread", run_id="many") for _ in range(20)]
    one = await create(host, "thread", run_id="one")
    steps = [asyncio.create_task(step("many", env_id)) for env_id in many]
    await asyncio.sleep(0)
    await asyncio.gather(*steps, asyncio.create_task(step("one", one)))
    assert done.index("one") <= 2


class Counted(enum.Enum):
    """An action that counts how often it is written as JSON."""

    ONE = "1"

    @property
    def value(self) -> str:
        written.append(self)
        return "1"

    def __str__(self) -> str:
        return "1"


written: list[Counted] = []


@pytest.mark.parametrize("kind", KINDS)
async def test_an_action_is_read_once_wherever_it_is_carried_out(
    host: Host, create: Create, kind: str
) -> None:
    env_ids = [await create(host, kind, seed=0) for _ in range(3)]
    written.clear()
    answers = await batch_calls.step(host, env_ids, [Counted.ONE] * 3, None)
    assert [total(answer) for answer in answers] == [1, 1, 1]
    assert len(written) == 3


async def test_a_batch_that_breaks_off_begins_none_of_those_that_wait(
    host: Host, create: Create, controls: Controls
) -> None:
    env_ids = [await create(host, "thread") for _ in range(3)]
    with pytest.raises(ValueError, match="shorter"):
        await batch_calls.step(host, env_ids, ["1"] * 2, None)
    assert controls.counts["1"] == 0
    assert [host.env_table.find(env_id).seq for env_id in env_ids] == [0, 0, 0]
