"""What every store promises: the same tests for each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from tests.cluster.workers import unchanging, worker
from tests.contract.conftest import StoreCase
from tests.waiting import NEVER_S, no_hang
from verl_agent_env.cluster.store import MAX_CHANGES, ClusterMap, Store, WorkerRecord, holder_of
from verl_agent_env.errors import GenerationChangedError, NameTakenError, WorkerNotAliveError
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.suspicions import MAX_SUSPICIONS, Level, Suspicion

TTL_S = NEVER_S
SHORT_S = 0.15
LEASES_S = (0.5, 2.0, 8.0, 32.0)
"""Leases to try one after the other where one must be renewed in time, by a machine of whatever speed."""


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with no_hang():
        while not await holds():  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.01)


async def until_dead(store: Store, *incarnations: str) -> None:
    async def gone() -> bool:
        return not set(incarnations) & set((await store.read_map()).workers)

    await until(gone)


async def joined(store: Store, ttl_s: float = TTL_S, **fields: object) -> WorkerRecord:
    """A worker that has sent its first heartbeat."""
    record = worker(**fields)  # type: ignore[arg-type]
    await store.heartbeat(record, ttl_s)
    return record


def owners(cluster: ClusterMap) -> dict[int, str]:
    return {slot: owner.incarnation for slot, owner in cluster.owners.items()}


async def owned_under(store: Store, tokens: Mapping[int, str]) -> set[int]:
    """Those slots that are owned under their token."""
    present = (await store.read_map()).owners
    return {slot for slot, token in tokens.items() if slot in present and present[slot].token == token}


# --- membership --------------------------------------------------------------------------------------------


async def test_empty_store_has_a_generation_and_nothing_else(store: Store) -> None:
    generation = await store.generation()
    assert generation
    cluster = await store.read_map()
    assert (cluster.generation, cluster.version) == (generation, 0)
    assert not cluster.owners
    assert not cluster.workers
    assert await store.map_version() == 0


async def test_all_see_the_same_generation(case: StoreCase) -> None:
    seen = await asyncio.gather(*(case.connect().generation() for _ in range(8)))
    assert len(set(seen)) == 1


async def test_heartbeat_shows_the_worker_to_all(case: StoreCase) -> None:
    here, there = case.connect(), case.connect()
    record = worker(state="starting", live_envs=7, started_at=123.5)
    answer = await here.heartbeat(record, TTL_S)
    cluster = await there.read_map()
    assert cluster.workers == {record.incarnation: record}
    assert (cluster.generation, cluster.version) == answer


async def test_heartbeat_without_news_keeps_the_version_and_takes_in_figures(store: Store) -> None:
    record = await joined(store)
    version = await store.map_version()
    busier = dataclasses.replace(record, live_envs=41)
    assert (await store.heartbeat(busier, TTL_S)).map_version == version
    assert (await store.read_map()).workers[record.incarnation].live_envs == 41


@pytest.mark.parametrize("change", [{"state": "draining"}, {"address": "127.0.0.9:1"}])
async def test_change_of_state_or_address_is_a_new_version(store: Store, change: dict[str, str]) -> None:
    record = await joined(store)
    version = await store.map_version()
    assert (await store.heartbeat(dataclasses.replace(record, **change), TTL_S)).map_version > version  # type: ignore[arg-type]


async def test_worker_dies_when_its_lease_runs_out(store: Store) -> None:
    short = await joined(store, SHORT_S)
    long = await joined(store)
    await until_dead(store, short.incarnation)
    assert set((await store.read_map()).workers) == {long.incarnation}


async def test_renewed_lease_does_not_run_out(store: Store) -> None:
    for lease_s in LEASES_S:
        record = await joined(store, lease_s)
        with contextlib.suppress(WorkerNotAliveError):
            await store.heartbeat(record, TTL_S)
            break
    await asyncio.sleep(1.5 * lease_s)
    assert record.incarnation in (await store.read_map()).workers


async def test_next_heartbeat_of_anybody_makes_a_death_a_new_version(store: Store) -> None:
    other = await joined(store)
    await joined(store, SHORT_S)
    version = await store.map_version()

    async def noticed() -> bool:
        return (await store.heartbeat(other, TTL_S)).map_version != version

    await until(noticed)
    settled = await store.map_version()
    assert (await store.heartbeat(other, TTL_S)).map_version == settled


async def test_expired_worker_comes_back_by_a_heartbeat_and_keeps_what_nobody_claimed(store: Store) -> None:
    record = await joined(store, SHORT_S)
    tokens = await store.claim(record.incarnation, [1, 2])
    await until_dead(store, record.incarnation)
    with pytest.raises(WorkerNotAliveError) as caught:
        await store.claim(record.incarnation, [3])
    assert (caught.value.incarnation, caught.value.reason) == (record.incarnation, "expired")
    await store.heartbeat(record, TTL_S)
    assert await owned_under(store, tokens) == {1, 2}
    assert await store.claim(record.incarnation, [1, 2]) == tokens


# --- names -------------------------------------------------------------------------------------------------


async def test_second_node_of_a_name_is_refused_and_changes_nothing(store: Store) -> None:
    first = await joined(store, name="node-a:1", supervisor="one", address="127.0.0.1:1")
    tokens = await store.claim(first.incarnation, [5])
    before = await store.read_map()
    second = worker(name="node-a:1", supervisor="two", address="127.0.0.2:1")
    with pytest.raises(NameTakenError) as caught:
        await store.heartbeat(second, TTL_S)
    assert (caught.value.name, caught.value.address) == ("node-a:1", "127.0.0.1:1")
    assert await store.read_map() == before
    assert await owned_under(store, tokens) == {5}


async def test_name_of_a_dead_worker_is_free(store: Store) -> None:
    first = await joined(store, SHORT_S, name="node-a:1", supervisor="one")
    second = worker(name="node-a:1", supervisor="two")
    await until_dead(store, first.incarnation)
    await store.heartbeat(second, TTL_S)
    assert set((await store.read_map()).workers) == {second.incarnation}
    with pytest.raises(NameTakenError):
        await store.heartbeat(first, TTL_S)


async def test_respawned_worker_replaces_its_live_predecessor(store: Store) -> None:
    first = await joined(store, name="node-a:1")
    tokens = await store.claim(first.incarnation, [5, 6])
    second = await joined(store, name="node-a:1")
    cluster = await store.read_map()
    assert set(cluster.workers) == {second.incarnation}
    assert not cluster.owners
    assert await owned_under(store, tokens) == set()
    with pytest.raises(WorkerNotAliveError) as caught:
        await store.heartbeat(first, TTL_S)
    assert caught.value.reason == "ended"


# --- the end of a worker -----------------------------------------------------------------------------------


async def test_leaving_frees_name_and_slots_at_once(store: Store) -> None:
    record = await joined(store, name="node-a:1", supervisor="one")
    other = await joined(store)
    await store.claim(record.incarnation, [1, 2])
    kept = await store.claim(other.incarnation, [3])
    version = await store.map_version()
    await store.leave(record.incarnation)
    cluster = await store.read_map()
    assert cluster.version > version
    assert set(cluster.workers) == {other.incarnation}
    assert owners(cluster) == {3: other.incarnation}
    assert await owned_under(store, kept) == {3}
    await joined(store, name="node-a:1", supervisor="two")
    await store.leave(record.incarnation)


async def test_late_heartbeat_does_not_revive_who_has_left(store: Store) -> None:
    record = await joined(store)
    await store.leave(record.incarnation)
    for attempt in (store.heartbeat(record, TTL_S), store.claim(record.incarnation, [1])):
        with pytest.raises(WorkerNotAliveError) as caught:
            await attempt
        assert caught.value.reason == "ended"
    assert not (await store.read_map()).workers


async def test_leaving_of_an_unknown_worker_is_no_new_version(store: Store) -> None:
    await joined(store)
    version = await store.map_version()
    await store.leave("nobody")
    assert await store.map_version() == version


# --- ownership ---------------------------------------------------------------------------------------------


async def test_claim_takes_free_slots_in_one_version(store: Store) -> None:
    record = await joined(store)
    version = await store.map_version()
    tokens = await store.claim(record.incarnation, range(NUM_SLOTS))
    assert set(tokens) == set(range(NUM_SLOTS))
    assert {holder_of(token) for token in tokens.values()} == {record.incarnation}
    cluster = await store.read_map()
    assert cluster.version > version
    assert cluster.tokens_of(record.incarnation) == tokens
    assert cluster.owner_of(77) == record


async def test_claim_leaves_what_a_live_worker_owns(store: Store) -> None:
    first, second = await joined(store), await joined(store)
    tokens = await store.claim(first.incarnation, [1, 2])
    version = await store.map_version()
    assert await store.claim(second.incarnation, [1, 2]) == {}
    assert await store.map_version() == version
    assert set(await store.claim(second.incarnation, [2, 3])) == {3}
    assert await owned_under(store, tokens) == {1, 2}


async def test_claim_repeated_gives_the_same_tokens(store: Store) -> None:
    record = await joined(store)
    tokens = await store.claim(record.incarnation, [1, 2])
    version = await store.map_version()
    assert await store.claim(record.incarnation, [2, 1]) == tokens
    assert await store.map_version() == version


async def test_claim_takes_the_slots_of_the_dead_and_fences_them(store: Store) -> None:
    dead, heir = await joined(store, SHORT_S), await joined(store)
    old = await store.claim(dead.incarnation, [1, 2])
    await until_dead(store, dead.incarnation)
    assert set((await store.read_map()).owners) == {1, 2}
    assert (await store.read_map()).owner_of(1) is None
    new = await store.claim(heir.incarnation, [1])
    assert new[1] != old[1]
    assert await owned_under(store, old) == {2}
    assert await owned_under(store, new) == {1}


async def test_stranger_cannot_claim(store: Store) -> None:
    with pytest.raises(WorkerNotAliveError):
        await store.claim("stranger", [1])
    assert not (await store.read_map()).owners


async def test_every_ownership_has_a_token_of_its_own(store: Store) -> None:
    one, other = await joined(store), await joined(store)
    tokens = await store.claim(one.incarnation, [9])
    seen = {tokens[9]}
    for receiver in (other, one, other, one):
        tokens = await store.hand_off({receiver.incarnation: tokens})
        seen.add(tokens[9])
    assert len(seen) == 5


async def test_of_many_racing_claimers_one_wins_each_slot(case: StoreCase) -> None:
    stores = [case.connect() for _ in range(20)]
    records = [await joined(store) for store in stores]
    slots = list(range(0, NUM_SLOTS, 16))
    won = await asyncio.gather(
        *(store.claim(r.incarnation, slots) for store, r in zip(stores, records, strict=True))
    )
    assert sorted(slot for tokens in won for slot in tokens) == slots
    cluster = await stores[0].read_map()
    for record, tokens in zip(records, won, strict=True):
        assert cluster.tokens_of(record.incarnation) == tokens


async def test_racing_claims_of_single_slots_never_share_one(case: StoreCase) -> None:
    stores = [case.connect() for _ in range(20)]
    records = [await joined(store) for store in stores]
    slots = list(range(24))

    async def claim_one_by_one(number: int) -> list[int]:
        incarnation = records[number].incarnation
        won: list[int] = []
        for slot in slots[number:] + slots[:number]:
            won += await stores[number].claim(incarnation, [slot])
        return won

    won = await asyncio.gather(*(claim_one_by_one(number) for number in range(20)))
    assert sorted(slot for part in won for slot in part) == slots


async def test_hand_off_moves_ownership_under_new_tokens(store: Store) -> None:
    giver, taker = await joined(store), await joined(store)
    tokens = await store.claim(giver.incarnation, [1, 2, 3])
    version = await store.map_version()
    moved = await store.hand_off({taker.incarnation: {1: tokens[1], 2: tokens[2]}})
    assert set(moved) == {1, 2}
    assert await store.map_version() > version
    assert await owned_under(store, tokens) == {3}
    assert await owned_under(store, moved) == {1, 2}
    assert owners(await store.read_map()) == {
        1: taker.incarnation,
        2: taker.incarnation,
        3: giver.incarnation,
    }


async def test_hand_off_leaves_out_stale_tokens(store: Store) -> None:
    giver, taker = await joined(store), await joined(store)
    tokens = await store.claim(giver.incarnation, [1, 2])
    moved = await store.hand_off({taker.incarnation: {1: tokens[1]}})
    again = await store.hand_off({giver.incarnation: moved})
    assert set(await store.hand_off({taker.incarnation: {**tokens, 7: "never:was"}})) == {2}
    assert await owned_under(store, again) == {1}


async def test_hand_off_to_the_dead_moves_nothing(store: Store) -> None:
    giver, dead = await joined(store), await joined(store)
    tokens = await store.claim(giver.incarnation, [1])
    await store.leave(dead.incarnation)
    before = await store.map_version()
    for receiver in (dead.incarnation, "nobody"):
        assert await store.hand_off({receiver: tokens}) == {}
    assert await owned_under(store, tokens) == {1}
    assert await store.map_version() == before


async def test_hand_off_to_several_is_one_change_and_leaves_out_the_dead(store: Store) -> None:
    giver, one, other, dead = [await joined(store) for _ in range(4)]
    tokens = await store.claim(giver.incarnation, range(8))
    await store.leave(dead.incarnation)
    known = await store.read_map()
    takers = [one, dead, other]
    moves = {
        taker.incarnation: {slot: tokens[slot] for slot in (place, place + 3)}
        for place, taker in enumerate(takers)
    }
    moved = await store.hand_off(moves)
    assert moved.keys() == {0, 2, 3, 5}
    cluster = await store.read_map(known)
    assert cluster.tokens_of(one.incarnation) == {slot: moved[slot] for slot in (0, 3)}
    assert cluster.tokens_of(other.incarnation) == {slot: moved[slot] for slot in (2, 5)}
    assert cluster.tokens_of(giver.incarnation) == {slot: tokens[slot] for slot in (1, 4, 6, 7)}
    assert unchanging(cluster) == unchanging(await store.read_map())


async def test_tokens_match_by_equality_only(store: Store) -> None:
    owner, other = await joined(store), await joined(store)
    token = (await store.claim(owner.incarnation, [1]))[1]
    version = await store.map_version()
    for near in (token[:-1], token + " ", token.upper(), token[::-1], f"{'0' * 32}:{owner.incarnation}", ""):
        assert await store.hand_off({other.incarnation: {1: near}}) == {}
    assert await store.hand_off({other.incarnation: {2: token}}) == {}
    assert await store.hand_off({other.incarnation: {}}) == {}
    assert await store.map_version() == version
    assert set(await store.hand_off({other.incarnation: {1: token}})) == {1}


@pytest.mark.parametrize("slot", [-1, NUM_SLOTS])
async def test_numbers_that_are_no_slots_are_refused(store: Store, slot: int) -> None:
    record = await joined(store)
    for attempt in (
        store.claim(record.incarnation, [0, slot]),
        store.hand_off({record.incarnation: {slot: "a:b"}}),
    ):
        with pytest.raises(ValueError, match="slot must be"):
            await attempt
    assert not (await store.read_map()).owners


# --- an emptied store --------------------------------------------------------------------------------------


async def test_emptied_store_is_another_generation_with_later_versions(case: StoreCase) -> None:
    store = case.connect()
    record = await joined(store)
    tokens = await store.claim(record.incarnation, [1, 2])
    before = await store.read_map()
    case.empty()
    with pytest.raises(WorkerNotAliveError):
        await store.claim(record.incarnation, [1])
    after = await store.heartbeat(record, TTL_S)
    assert after.generation != before.generation
    assert after.generation == await store.generation()
    assert after.map_version > before.version
    assert await owned_under(store, tokens) == set()
    assert not (await store.read_map()).owners


async def test_claim_under_another_generation_takes_nothing(case: StoreCase) -> None:
    store = case.connect()
    record = worker()
    old = (await store.heartbeat(record, TTL_S)).generation
    assert await store.claim(record.incarnation, [1], generation=old)
    case.empty()
    new = (await store.heartbeat(record, TTL_S)).generation
    with pytest.raises(GenerationChangedError) as caught:
        await store.claim(record.incarnation, [1], generation=old)
    assert (caught.value.expected, caught.value.found) == (old, new)
    assert set(await store.claim(record.incarnation, [1], generation=new)) == {1}


# --- waiting -----------------------------------------------------------------------------------------------


async def test_wait_ends_with_the_change_of_another(case: StoreCase) -> None:
    here, there = case.connect(), case.connect()
    record = await joined(there)
    version = await here.map_version()
    waiting = [asyncio.create_task(here.wait_for_change(version, NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    await there.claim(record.incarnation, [1])
    async with no_hang():
        seen = await asyncio.gather(*waiting)
    assert set(seen) == {await there.map_version()}


async def test_wait_for_a_known_change_ends_at_once(store: Store) -> None:
    await joined(store)
    version = await store.map_version()
    async with no_hang():
        assert await store.wait_for_change(version - 1, NEVER_S) == version


async def test_wait_without_a_change_ends_in_time(store: Store) -> None:
    await joined(store)
    version = await store.map_version()
    began = time.monotonic()
    assert await store.wait_for_change(version, 0.2) == version
    assert time.monotonic() - began > 0.15


# --- calls that ended workers ------------------------------------------------------------------------------


def suspicion(number: int = 1, level: Level = "refused", **fields: Any) -> Suspicion:
    return Suspicion(f"00{number % 10}-{number:032x}", 2, number, level, "SIGSEGV", **fields)


async def test_a_suspicion_is_in_the_map_of_all_from_the_next_version_on(case: StoreCase) -> None:
    here, there = case.connect(), case.connect()
    await joined(there)
    version = await there.map_version()
    told = [suspicion(1), suspicion(2, "alone"), suspicion(2, "examined")]
    await here.suspect(told)
    assert await there.map_version() > version
    found = (await there.read_map()).suspicions
    assert found.keys() == {each.key for each in told}
    for each in told:
        kept = found[each.key]
        assert dataclasses.replace(kept, lasts_s=each.lasts_s) == each
        assert 0 < kept.lasts_s <= each.lasts_s


async def test_a_suspicion_takes_the_place_of_the_last_and_is_cleared_by_its_key(store: Store) -> None:
    await store.suspect([suspicion(1, "suspected"), suspicion(2, "examined")])
    await store.suspect([suspicion(1, "refused")])
    version = await store.map_version()
    await store.suspect([suspicion(3)], [suspicion(2, "examined").key, "never there"])
    cluster = await store.read_map()
    assert cluster.version > version
    assert {each.level for each in cluster.suspicions.values()} == {"refused"}
    assert {each.seq for each in cluster.suspicions.values()} == {1, 3}


async def test_a_suspicion_ends_with_its_time(store: Store) -> None:
    await store.suspect([suspicion(1, lasts_s=SHORT_S), suspicion(2)])

    async def is_gone() -> bool:
        return [each.seq for each in (await store.read_map()).suspicions.values()] == [2]

    await until(is_gone)


async def test_of_too_many_suspicions_those_that_last_longest_are_kept(store: Store) -> None:
    await store.suspect([suspicion(n, lasts_s=TTL_S + n) for n in range(MAX_SUSPICIONS + 10)])
    found = (await store.read_map()).suspicions
    assert {each.seq for each in found.values()} == set(range(10, MAX_SUSPICIONS + 10))


async def test_a_full_store_takes_suspicions(case: StoreCase) -> None:
    store = case.connect()
    await joined(store)
    case.fill(True)
    await store.suspect([suspicion(1)])
    assert len((await store.read_map()).suspicions) == 1


# --- changes of the map ------------------------------------------------------------------------------------


async def same_as_whole(store: Store, known: ClusterMap) -> bool:
    """Whether a map with what has changed is the one that is there."""
    updated = await store.read_map(known)
    return unchanging(updated) == unchanging(await store.read_map())


async def test_changes_of_a_map_give_the_whole_map(case: StoreCase) -> None:
    store = case.connect()
    here, there, silent = [await joined(store, name=name) for name in "abc"]
    at_first = await store.read_map()
    tokens = await store.claim(here.incarnation, range(9))
    assert (await store.read_map(at_first)).tokens_of(here.incarnation) == tokens
    moved = await store.hand_off({there.incarnation: {1: tokens[1], 2: tokens[2]}})
    assert (await store.read_map(at_first)).tokens_of(there.incarnation) == moved
    await store.leave(silent.incarnation)
    await store.heartbeat(dataclasses.replace(here, state="draining", live_envs=5), TTL_S)
    await store.suspect([Suspicion("env", 0, 1, "suspected")])
    late = await joined(store, name="c")
    updated = await store.read_map(at_first)
    assert set(updated.workers) == {here.incarnation, there.incarnation, late.incarnation}
    assert updated.workers[here.incarnation].state == "draining"
    assert set(updated.suspicions) == {"env"}
    assert await same_as_whole(store, at_first)
    await store.leave(there.incarnation)
    assert (await store.read_map(at_first)).owners.keys() == tokens.keys() - {1, 2}
    assert await same_as_whole(store, updated)


async def test_unchanged_map_is_the_same(store: Store) -> None:
    record = await joined(store)
    await store.claim(record.incarnation, range(9))
    known = await store.read_map()
    again = await store.read_map(known)
    assert unchanging(again) == unchanging(known)
    # Nothing was sent, and nothing copied.
    assert again.owners is known.owners
    assert again.workers is known.workers


async def test_changes_name_a_worker_whose_lease_is_over(store: Store) -> None:
    mortal = await joined(store, SHORT_S)
    await store.claim(mortal.incarnation, [1])
    known = await store.read_map()
    assert mortal.incarnation in known.workers
    await until_dead(store, mortal.incarnation)
    # Nobody has noticed it in a heartbeat yet.
    assert mortal.incarnation not in (await store.read_map(known)).workers
    await joined(store)
    assert mortal.incarnation not in (await store.read_map(known)).workers
    assert await same_as_whole(store, known)
    # Another life takes the name over, and the slot.
    heir = await joined(store, name=mortal.name)
    await store.claim(heir.incarnation, [1])
    assert await same_as_whole(store, known)


async def test_changes_name_a_worker_whose_name_has_another_one(store: Store) -> None:
    """Its lease was over, and the first heartbeat after that is that of its heir."""
    mortal = await joined(store, SHORT_S)
    known = await store.read_map()
    await until_dead(store, mortal.incarnation)
    heir = await joined(store, name=mortal.name)
    assert (await store.read_map(known)).workers.keys() == {heir.incarnation}


async def test_changes_that_are_not_remembered_give_the_whole_map(case: StoreCase) -> None:
    store = case.connect()
    record = await joined(store)
    tokens = await store.claim(record.incarnation, range(4))
    known = await store.read_map()
    strange = dataclasses.replace(known, version=known.version - 1, owners={9: known.owners[1]})
    assert (await store.read_map(strange)).tokens_of(record.incarnation) == tokens
    other = dataclasses.replace(known, generation="another", owners={9: known.owners[1]})
    assert (await store.read_map(other)).tokens_of(record.incarnation) == tokens
    # More at once than is remembered.
    await store.claim(record.incarnation, range(NUM_SLOTS))
    assert len((await store.read_map(known)).owners) == NUM_SLOTS
    assert await same_as_whole(store, known)
    case.empty()
    assert await same_as_whole(store, known)
    assert not (await store.read_map(known)).owners


async def test_store_remembers_as_many_changes_as_it_says(store: Store) -> None:
    record = await joined(store)
    known = await store.read_map()
    maps = [known]
    for number in range(MAX_CHANGES + 300):
        record = dataclasses.replace(record, state="draining" if number % 2 else "ready")
        await store.heartbeat(record, TTL_S)
        if number in (200, MAX_CHANGES):
            maps.append(await store.read_map())
    for earlier in maps:
        assert await same_as_whole(store, earlier)


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_changes_a_map_with_it_is_the_whole_map(case: StoreCase, seed: int) -> None:
    """Readers that are behind by any number of changes, of any kind, come to the same map."""
    chance = random.Random(seed)
    store = case.connect()
    workers = [await joined(store, name=f"n:{number}") for number in range(4)]
    maps = [await store.read_map()]
    tokens: dict[int, str] = {}

    async def claim(record: WorkerRecord) -> None:
        tokens.update(await store.claim(record.incarnation, chance.sample(range(64), chance.randint(1, 20))))

    async def hand_off(record: WorkerRecord) -> None:
        some = chance.sample(sorted(tokens.items()), min(len(tokens), 5))
        tokens.update(await store.hand_off({record.incarnation: dict(some)}))

    async def change(record: WorkerRecord) -> None:
        other = dataclasses.replace(record, state=chance.choice(["ready", "draining"]), live_envs=seed)
        await store.heartbeat(other, TTL_S)

    async def leave(record: WorkerRecord) -> None:
        await store.leave(record.incarnation)
        await replace(record)

    async def replace(record: WorkerRecord) -> None:
        workers[workers.index(record)] = await joined(store, name=record.name)

    async def suspect(record: WorkerRecord) -> None:
        key = str(chance.randrange(3))
        if chance.random() < 0.5:
            await store.suspect([Suspicion(key, 0, 1, "suspected")])
        else:
            await store.suspect([], [key])

    for _ in range(60):
        await chance.choice([claim, claim, hand_off, hand_off, change, leave, replace, suspect])(
            chance.choice(workers)
        )
        maps[chance.randrange(len(maps))] = await store.read_map(chance.choice(maps))
        if len(maps) < 6:
            maps.append(await store.read_map())
        assert await same_as_whole(store, chance.choice(maps))
    for known in maps:
        assert await same_as_whole(store, known)
