"""Idempotency keys: unit tests of what is kept, and the calls that take them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.server.conftest import LAKE, MakeClient, Problem, app_of
from verl_agent_env.cluster.idempotency import IdempotencyRecord
from verl_agent_env.cluster.memory.idempotency import MemoryIdempotencyRecords
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.engine import CreateRequest
from verl_agent_env.errors import (
    AtCapacityError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    ShuttingDownError,
)
from verl_agent_env.server.http.headers import KEY_HEADER
from verl_agent_env.server.http.idempotency import (
    IdempotentRequests,
    KeptAnswers,
    fingerprint_of,
    name_of_key,
    named_by,
)
from verl_agent_env.server.http.tokens import ANYBODY, Principal
from verl_agent_env.server.http.types import Request
from verl_agent_env.types import NUM_SLOTS, slot_of, tag_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Counts how often it is done; waits for its gate."""

    def __init__(self, answer: bytes = b"done") -> None:
        self.times = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self._answer = answer

    async def __call__(self) -> bytes:
        self.times += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return b"%b %d" % (self._answer, self.times)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(clock: Clock) -> KeptAnswers:
    return KeptAnswers(60.0, 10_000, clock)


async def ask(answers: KeptAnswers, name: str, work: Work, fingerprint: str = "f") -> bytes:
    kept = await answers.find(name, fingerprint)
    return bytes(kept if kept is not None else await answers.keep(name, fingerprint, work))


async def test_the_same_request_is_answered_once_and_for_all(answers: KeptAnswers) -> None:
    work = Work()
    assert [await ask(answers, "k", work) for _ in range(3)] == [b"done 1"] * 3


async def test_requests_in_flight_are_joined(answers: KeptAnswers) -> None:
    work = Work()
    work.gate.clear()
    tasks = [asyncio.create_task(ask(answers, "k", work)) for _ in range(5)]
    await asyncio.sleep(0)
    assert await answers.find("k", "other") is None
    work.gate.set()
    assert await asyncio.gather(*tasks) == [b"done 1"] * 5


async def test_what_another_request_was_answered_goes_with_its_key(answers: KeptAnswers) -> None:
    first, second = Work(b"first"), Work(b"second")
    first.gate.clear()
    task = asyncio.create_task(ask(answers, "k", first, "f1"))
    await asyncio.sleep(0)
    assert await ask(answers, "k", second, "f2") == b"second 1"
    first.gate.set()
    assert await task == b"first 1"
    assert await answers.find("k", "f1") is None
    assert await answers.find("k", "f2") == b"second 1"
    assert answers._size == sum(entry.size for entry in answers._entries.values())


async def test_a_failure_reaches_all_who_joined_and_is_not_kept(answers: KeptAnswers) -> None:
    work = Work()
    work.gate.clear()
    work.failure = AtCapacityError("environments", 1)
    tasks = [asyncio.create_task(ask(answers, "k", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AtCapacityError] * 3
    work.failure = None
    assert await ask(answers, "k", work) == b"done 2"


async def test_a_cancelled_request_tells_those_who_joined_to_try_again(answers: KeptAnswers) -> None:
    work = Work()
    work.gate.clear()
    first = asyncio.create_task(ask(answers, "k", work))
    await asyncio.sleep(0)
    second = asyncio.create_task(ask(answers, "k", work))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(ShuttingDownError):
        await second
    work.gate.set()
    assert await ask(answers, "k", work) == b"done 2"


async def test_a_joined_request_that_is_cancelled_leaves_the_others(answers: KeptAnswers) -> None:
    work = Work()
    work.gate.clear()
    first = asyncio.create_task(ask(answers, "k", work))
    await asyncio.sleep(0)
    second = asyncio.create_task(ask(answers, "k", work))
    await asyncio.sleep(0)
    second.cancel()
    work.gate.set()
    assert await first == b"done 1"


async def test_an_answer_is_forgotten_after_its_time(answers: KeptAnswers, clock: Clock) -> None:
    work = Work()
    await ask(answers, "k", work)
    clock.now = 59.0
    assert await ask(answers, "k", work) == b"done 1"
    clock.now = 61.0
    assert await ask(answers, "k", work) == b"done 2"


async def test_memory_is_bounded_the_oldest_going_first(answers: KeptAnswers) -> None:
    work = Work(b"x" * 1000)
    for i in range(100):
        await ask(answers, f"key-{i}", work)
    assert answers._size <= 10_000
    assert len(answers._entries) < 10
    assert (await ask(answers, "key-99", work)).endswith(b" 100")
    assert (await ask(answers, "key-0", work)).endswith(b" 101")


async def test_tiny_answers_are_bounded_too(answers: KeptAnswers) -> None:
    work = Work(b"")
    for i in range(1000):
        await ask(answers, str(i), work)
    assert len(answers._entries) <= 10


async def test_an_answer_larger_than_the_memory_is_not_kept(answers: KeptAnswers) -> None:
    work = Work(b"x" * 50_000)
    await ask(answers, "large", work)
    assert answers._size <= 10_000
    assert await ask(answers, "large", work) == b"x" * 50_000 + b" 2"


async def test_answers_are_void_once_another_worker_owned_the_slot_of_the_key() -> None:
    epochs, work = Counter[str](), Work()
    answers = KeptAnswers(60.0, 10_000, Clock(), epochs.__getitem__)
    assert [await ask(answers, name, work) for name in "kok"] == [b"done 1", b"done 2", b"done 1"]
    epochs["k"] += 1
    assert [await ask(answers, name, work) for name in "kok"] == [b"done 3", b"done 2", b"done 3"]


class SlowRecords(MemoryIdempotencyRecords):
    """Records that are looked up for as long as the gate is closed."""

    def __init__(self) -> None:
        super().__init__(60.0, 10_000, Clock())
        self.gate = asyncio.Event()
        self.gate.set()

    async def claim(self, name: str, record: IdempotencyRecord) -> IdempotencyRecord:
        await self.gate.wait()
        return await super().claim(name, record)


async def test_a_request_is_not_refused_for_another_one_that_its_key_does_not_belong_to() -> None:
    records = SlowRecords()
    answers = KeptAnswers(1e-9, 10_000, lambda: asyncio.get_running_loop().time())
    calls = IdempotentRequests(records, answers, no_turn)

    async def nothing() -> None:
        """Read nothing of it."""

    async def send(body: bytes) -> bytes:
        async def make(_: None, named: Any) -> bytes:
            return str((await named([CreateRequest(LAKE)], 1))[0].env_id).encode()

        return bytes(await calls.answer("r", Request("", body, b"", {KEY_HEADER: b"k"}), nothing, make))

    made = await send(b"right")
    records.gate.clear()
    wrong, right = (asyncio.create_task(send(body)) for body in (b"wrong", b"right"))
    await asyncio.sleep(0)
    records.gate.set()
    assert await right == made
    with pytest.raises(IdempotencyKeyReusedError):
        await wrong


async def no_turn() -> None:
    """Have nobody wait."""


# --- names ---------------------------------------------------------------------------------------------------


def name_of(principal: Principal, key: bytes | None, **headers: bytes) -> str | None:
    given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return name_of_key(Request("", b"", b"", given if key is None else {**given, KEY_HEADER: key}, principal))


@pytest.mark.parametrize("key", [b"", b"x" * 257, b"a b", b"\x00", b"\xff"])
def test_a_key_that_is_none_is_refused(key: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        name_of(ANYBODY, key)
    assert caught.value.errors[0]["loc"] == ["header", "Idempotency-Key"]


def test_keys_live_within_their_holder() -> None:
    principals = [
        Principal.holder("a", ["run"]), Principal.holder("b", ["run"]), Principal(key_scope=b"c"), ANYBODY
    ]  # fmt: skip
    names = {name_of(principal, key) for principal in principals for key in (b"k", b"l")}
    assert len(names) == 8
    # Another token of the same holder, with which it is replaced.
    assert name_of(Principal.holder("a", ["admin"]), b"k") in names
    assert name_of(ANYBODY, None) is None


@pytest.mark.parametrize("worker", [ANYBODY, Principal.from_text("run a"), Principal.from_text("admin")])
def test_a_name_that_another_worker_gave_is_kept(worker: Principal) -> None:
    name = name_of(Principal.holder("a", ["run"]), b"k")
    assert name is not None
    assert name_of(worker, name.encode(), x_env_hop=b"1") == name


def test_a_clients_key_is_no_name_whatever_it_says() -> None:
    name = name_of(Principal.holder("a", ["run"]), b"k")
    assert name is not None
    assert name_of(Principal.holder("b", ["run"]), name.encode(), x_env_hop=b"1") != name
    assert name_of(ANYBODY, name.encode()) != name


async def test_environments_of_a_key_are_its_holders() -> None:
    record = IdempotencyRecord("f", "n", ("a:1", "b:2"))
    tag = Principal.holder("a", ["run"]).tag
    named = await named_by("abc" + "0" * 29, record, [CreateRequest(LAKE, tag=tag)] * 100, no_turn)
    plain = await named_by("abc" + "0" * 29, record, [CreateRequest(LAKE)] * 100, no_turn)
    assert {tag_of(request.env_id or "") for request in named} == {tag}
    assert len({request.env_id for request in named}) == 100
    slots = [[slot_of(request.env_id or "") for request in requests] for requests in (named, plain)]
    assert slots[0] == slots[1]


async def test_environments_of_a_key_lie_in_equal_shares_on_the_workers_of_its_record() -> None:
    workers = ("a:1", "b:2", "c:3", "d:4")
    owners = Ring(workers).assignments
    record = IdempotencyRecord("f", "n", workers)
    assert IdempotencyRecord.from_text(record.to_text()) == record
    named = await named_by("abc" + "0" * 29, record, [CreateRequest(LAKE)] * 1000, no_turn)
    assert len({request.env_id for request in named}) == 1000
    homes = [owners[slot_of(request.env_id or "")] for request in named]
    assert Counter(homes) == dict.fromkeys(workers, 250)
    # Neighbours stay together, and they lie in many slots.
    assert sum(a != b for a, b in itertools.pairwise(homes)) == 3
    assert len({slot_of(request.env_id or "") for request in named}) > 700
    # Small ones do not all go to the same workers.
    few = [
        await named_by(f"{n:03x}" + "0" * 29, record, [CreateRequest(LAKE)] * 2, no_turn) for n in range(64)
    ]
    assert len({owners[slot_of(named[0].env_id or "")] for named in few}) == 4


async def test_of_many_workers_those_of_a_key_have_so_many_environments_at_least() -> None:
    workers = tuple(f"w{number}:1" for number in range(40))
    owners, name, requests = Ring(workers).assignments, "abc" + "0" * 29, [CreateRequest(LAKE)] * 64 * 20
    homes = []
    for nonce in "12":
        record = IdempotencyRecord("f", nonce, workers)
        named = await named_by(name, record, requests, no_turn, together=64)
        assert named == await named_by(name, record, requests, no_turn, together=64)
        homes.append(Counter(owners[slot_of(request.env_id or "")] for request in named))
        assert sorted(homes[-1].values()) == [64] * 20
    assert homes[0].keys() != homes[1].keys()


async def test_ids_follow_from_the_record_and_not_from_the_key() -> None:
    requests = [CreateRequest(LAKE), CreateRequest(LAKE, 5)]
    name = "abc" + "0" * 29
    one, other = (IdempotencyRecord("f", nonce) for nonce in ("1", "2"))
    named = await named_by(name, one, requests, no_turn)
    assert named == await named_by(name, one, requests, no_turn)
    assert [slot_of(request.env_id or "") for request in named] == [
        0xABC,
        (0xABC + NUM_SLOTS // 2) % NUM_SLOTS,
    ]
    assert named[1].seed == 5
    others = await named_by(name, other, requests, no_turn)
    assert {r.env_id for r in named}.isdisjoint({r.env_id for r in others})
    assert named[0].seed != others[0].seed


async def test_others_have_turns_while_a_large_request_is_named_and_told_apart() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1

    record = IdempotencyRecord("f", "n")
    await named_by("abc" + "0" * 29, record, [CreateRequest(LAKE)] * 10_000, turn)
    assert turns >= 9
    turns = 0
    assert await fingerprint_of("r", b"x" * (40 << 20), turn) == await fingerprint_of(
        "r", b"x" * (40 << 20), no_turn
    )
    assert turns >= 4


async def test_a_request_is_told_from_others_by_its_call_and_its_body() -> None:
    fingerprints = [
        await fingerprint_of(route, body, no_turn) for route in ("a", "b") for body in (b"", b"x")
    ]
    assert len(set(fingerprints)) == 4
    assert await fingerprint_of("a", b"x", no_turn) == fingerprints[1]


# --- calls ---------------------------------------------------------------------------------------------------


SINGLE, BATCH = "/api/environment/initialize", "/api/batch/initialize"


def keyed(key: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"json": body, "headers": {"idempotency-key": key}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/environment/initialize", {"env_name": LAKE}),
        ("/api/batch/initialize", {"env_name": LAKE, "num_envs": 3}),
    ],
)
async def test_a_repeated_initialize_makes_one_environment(
    client: httpx.AsyncClient, problem: Problem, path: str, body: dict[str, object]
) -> None:
    answers = await asyncio.gather(*(client.post(path, **keyed("key-1", body)) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(app_of(client).env_host.env_table) == body.get("num_envs", 1)
    other = await client.post(path, **keyed("key-1", {**body, "ttl_s": 5}))
    problem(other, 422, "idempotency_key_reused")
    problem(await client.post(path, **keyed("a b", body)), 422, "invalid_request")


async def test_a_failed_initialize_may_be_sent_again_under_its_key(
    make_client: MakeClient, problem: Problem, initialize: Callable[..., Awaitable[str]]
) -> None:
    client = await make_client(host={"max_envs": 1})
    env_id = await initialize(client)
    request = keyed("key-1", {"env_name": LAKE})
    problem(await client.post(SINGLE, **request), 503, "at_capacity")
    await client.post(f"/api/environment/{env_id}/close")
    assert (await client.post(SINGLE, **request)).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"env_name": "nonsense"},
        {"env_name": LAKE, "env_kwargs": {"size": -1}},
        {"env_name": LAKE, "colour": "blue"},
    ],
)
async def test_what_is_refused_before_anything_began_leaves_its_key_free(
    client: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    assert (await client.post(SINGLE, **keyed("key-1", wrong))).status_code == 422
    assert (await client.post(SINGLE, **keyed("key-1", {"env_name": LAKE}))).status_code == 200


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((SINGLE, {"env_name": LAKE, "seed": 1}), (SINGLE, {"env_name": LAKE, "seed": 2})),
        ((SINGLE, {"env_name": LAKE}), (SINGLE, {"env_name": LAKE, "env_kwargs": {"size": 4}})),
        ((SINGLE, {"env_name": LAKE}), (BATCH, {"env_name": LAKE, "num_envs": 1})),
        ((BATCH, {"env_name": LAKE, "seeds": [1]}), (SINGLE, {"env_name": LAKE, "seed": 1})),
        ((BATCH, {"env_name": LAKE, "num_envs": 2}), (BATCH, {"env_name": LAKE, "num_envs": 3})),
    ],
)
@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_a_key_never_gives_what_another_request_made(
    make_client: MakeClient,
    problem: Problem,
    first: tuple[str, dict[str, Any]],
    second: tuple[str, dict[str, Any]],
    is_forgotten: bool,
) -> None:
    client = await make_client(http={"idempotency_memory_s": 1e-9 if is_forgotten else 600.0})
    made = await client.post(first[0], **keyed("key-1", first[1]))
    assert made.status_code == 200
    problem(await client.post(second[0], **keyed("key-1", second[1])), 422, "idempotency_key_reused")
    # The request itself may come again, whoever has forgotten the answer.
    again = await client.post(first[0], **keyed("key-1", first[1]))
    assert again.json() == made.json()
    assert len(app_of(client).env_host.env_table) == len(made.json().get("env_ids", [0]))


async def test_a_key_that_is_forgotten_altogether_makes_another_environment(make_client: MakeClient) -> None:
    client = await make_client(http={"idempotency_memory_bytes": 1})
    made = [
        (await client.post(SINGLE, **keyed(key, {"env_name": LAKE, "seed": seed}))).json()
        for key, seed in (("key-1", 1), ("key-2", 1), ("key-1", 2))
    ]
    assert len({answer["env_id"] for answer in made}) == 3
    assert made[2]["info"]["seed"] == 2


async def test_an_answer_that_is_forgotten_is_given_again_as_it_was_after_steps_and_resets(
    make_client: MakeClient,
) -> None:
    client = await make_client(http={"idempotency_memory_s": 1e-9})
    request = keyed("key-1", {"env_name": LAKE, "seeds": [1, None]})
    made = (await client.post(BATCH, **request)).json()
    for env_id in made["env_ids"]:
        await client.post(f"/api/environment/{env_id}/step", json={"action": "down"})
    await client.post(f"/api/environment/{made['env_ids'][1]}/reset", json={"seed": 77})
    assert (await client.post(BATCH, **request)).json() == made


async def test_items_that_failed_are_tried_again_when_the_answer_is_forgotten(
    make_client: MakeClient, initialize: Callable[..., Awaitable[str]]
) -> None:
    client = await make_client(http={"idempotency_memory_s": 1e-9}, host={"max_envs": 2})
    other = await initialize(client)
    request = keyed("key-1", {"env_name": LAKE, "seeds": [1, 2]})
    first = (await client.post(BATCH, **request)).json()
    assert [error["code"] for error in first["errors"]] == ["at_capacity"]
    await client.post(f"/api/environment/{other}/close")
    again = (await client.post(BATCH, **request)).json()
    assert again["errors"] == []
    assert again["env_ids"][0] == first["env_ids"][0]
    assert again["infos"][1] == {"seed": 2}


async def test_holders_of_different_tokens_have_keys_of_their_own(make_client: MakeClient) -> None:
    client = await make_client(auth_tokens=("token-a", "token-b"))
    made = {}
    for token in ("token-a", "token-b"):
        headers = {"idempotency-key": "key-1", "authorization": f"Bearer {token}"}
        answers = [await client.post(SINGLE, json={"env_name": LAKE}, headers=headers) for _ in range(2)]
        assert answers[0].content == answers[1].content
        made[token] = answers[0].json()["env_id"]
    assert made["token-a"] != made["token-b"]
