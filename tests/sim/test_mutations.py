"""The mutation gate: without any one of its guards, the cluster fails a schedule."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from tests.sim import world as sim
from tests.sim.machine import ClusterMachine
from tests.sim.schedules import SCHEDULES
from tests.sim.shard_schedules import SHARD_SCHEDULES
from tests.sim.world import TTL_S
from verl_agent_env.cluster import store
from verl_agent_env.cluster.agent import ClusterAgent
from verl_agent_env.cluster.log_shards import NOT_BEFORE, Installation
from verl_agent_env.cluster.memory import log as memory_log
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.log import MemoryEventLog, _KeptEnvironment
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.planner import RebalancePlanner
from verl_agent_env.cluster.shard_ownership import ShardOwnership
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import ClusterMap, MapChanges
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.environments.repeats import EarlierSteps
from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.persistence import repersisting, restoring
from verl_agent_env.engine.persistence.journal import Journal
from verl_agent_env.engine.persistence.recorder import Recorder
from verl_agent_env.errors import EnvironmentStateError
from verl_agent_env.server.cluster import handover
from verl_agent_env.wire.records import Refusal, RefusalReason, Write, digest_of
from verl_agent_env.wire.results import EncodedStep

_change, _make = memory_log._change, MemoryEventLog._make
_reject, _write = Journal._reject, Journal.write


async def commit_of_anybody(
    log: MemoryEventLog, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
) -> list[Refusal]:
    """Writes whoever sends them."""
    made = [(position, log._make(write)) for position, write in enumerate(writes)]
    return [Refusal(position, reason) for position, reason in made if reason is not None]


def change_of_any_episode(kept: _KeptEnvironment, write: Write) -> RefusalReason | None:
    """Takes every step for one of the present episode."""
    return _change(kept, write if write.kind == "begin" else replace(write, episode=kept.episode))


def change_at_any_place(kept: _KeptEnvironment, write: Write) -> RefusalReason | None:
    """Appends whatever comes."""
    return _change(kept, replace(write, seq=len(kept.entries)) if write.kind == "append" else write)


def change_without_comparison(kept: _KeptEnvironment, write: Write) -> RefusalReason | None:
    """Takes any entry in the same place for the same one."""
    reason = _change(kept, write)
    return None if reason == "conflict" else reason


def change_once(kept: _KeptEnvironment, write: Write) -> RefusalReason | None:
    """Does not know an entry again that was written before its answer was lost."""
    return "conflict" if write.kind == "append" and len(kept.entries) > write.seq else _change(kept, write)


def put_whatever_followed(log: MemoryEventLog, write: Write) -> RefusalReason | None:
    """Lets a late copy of what is re-persisted take away what has followed."""
    if write.kind == "put":
        log._kept.pop(write.env_id, None)
    return _make(log, write)


def written_under_any_token(journal: Journal, slot: int, group: Group) -> str:
    """Makes writes also of a time before the slot was another worker's."""
    present = journal._ownership.token_of(slot)
    group.held = {**group.held, slot: present}
    return "undecided" if present is None else "ours"


def give_up_whatever_is_here(
    journal: Journal, env_id: str, reason: RefusalReason, group: Group | None, token: str | None
) -> None:
    """Takes what was brought back since for what was refused."""
    _reject(journal, env_id, reason, group, None)


def write_with_any_other(journal: Journal, write: Write) -> Group:
    """Has writes go with those that wait already, whatever they were asked for under."""
    parked = journal._parked.get(write.slot)
    if parked is None:
        return _write(journal, write)
    parked.add(write)
    return parked


def answer_at_once(recorder: Recorder, instance: LiveEnv, answer: Any) -> Any:
    """Answers before the write is made."""
    return answer


def refuse_at_once(recorder: Recorder, instance: LiveEnv, error: EnvironmentStateError) -> Any:
    """Refuses before what it tells of is written."""
    raise error


def agrees_to_the_word(
    recorded: bytes, answer: EncodedStep, seq: int, state: int | None, code: bytes
) -> bool:
    """Compares what was said, too, whoever said it."""
    return recorded == digest_of(answer, seq, state, code)


def owns_without_a_lease(table: SlotTable, slot: int) -> bool:
    """Believes in a slot for ever."""
    return bool(table._is_mine[slot])


def observe_and_claim_at_once(planner: RebalancePlanner, cluster: ClusterMap) -> None:
    """Claims what it held before it was away, as if nobody else could have had it."""
    _observe(planner, cluster)
    planner._claims_from = float("-inf")


_observe = RebalancePlanner.observe


def forget_the_third_change(store: MemoryStore, generation: str, version: int) -> MapChanges | None:
    """Drops one change of a map, once."""
    changes = _changes_since(store, generation, version)
    if changes is None or len(changes.owners) == 0 or vars(store).setdefault("dropped", 0) == 3:
        return changes
    vars(store)["dropped"] += 1
    return changes if vars(store)["dropped"] < 3 else dataclasses.replace(changes, owners=changes.owners[:-1])


_changes_since = MemoryStore.changes_since


def repersist_the_header_alone(kept: Recorder, env_id: str) -> Any:
    """States an environment again without its state."""
    whole = _repersist(kept, env_id)
    return whole and whole[:1]


_repersist = Recorder.repersist


def close_and_go_on(recorder: Recorder, instance: LiveEnv, reason: str) -> Group:
    """Writes the end, and takes calls until it is written."""
    group = _closed(recorder, instance, reason)
    instance.ending = None
    return group


_closed = Recorder.closed

MUTATIONS: list[tuple[str, Any, str, Any, str]] = [
    ("token", MemoryEventLog, "commit", commit_of_anybody, "stopped_before_the_append"),
    ("episode", memory_log, "_change", change_of_any_episode, "step_of_an_earlier_episode_arrives_late"),
    ("seq", memory_log, "_change", change_at_any_place, "late_copies_of_appends"),
    ("append before answer", Recorder, "hold_back", answer_at_once, "request_lost_then_killed"),
    ("comparison", memory_log, "_change", change_without_comparison, "forgotten_with_a_write_on_its_way"),
    ("void", Journal, "_status_of", written_under_any_token, "end_that_was_not_written_in_time"),
    ("ending", Recorder, "closed", close_and_go_on, "asked_again_while_its_end_is_written"),
    ("void state", Journal, "_status_of", written_under_any_token, "two_states_after_one_step"),
    (
        "given up",
        Journal,
        "_reject",
        give_up_whatever_is_here,
        "old_write_fails_when_its_environment_has_come_back",
    ),
    ("group", Journal, "write", write_with_any_other, "new_write_comes_upon_old_ones_that_were_put_off"),
    ("told", Recorder, "hold_back_error", refuse_at_once, "refused_for_a_step_that_was_never_written"),
    ("repeated append", memory_log, "_change", change_once, "lost_answer_of_an_append"),
    ("late put", MemoryEventLog, "_make", put_whatever_followed, "late_copy_of_a_repersisting"),
    ("lease", SlotTable, "owns", owns_without_a_lease, "woken_owner_is_asked_at_once"),
    ("outdated", ClusterAgent, "_forget_outdated", lambda *_: None, "slot_comes_back"),
    ("digest", restoring, "agrees", lambda *_: True, "journal_of_another_version"),
    ("words", restoring, "agrees", agrees_to_the_word, "killed_before_the_upgrade"),
    ("operations", LiveEnv, "_answer_to", lambda *_: None, "answers_of_parts_are_lost"),
    ("calls", repersisting, "pack", lambda writes: [list(writes)], "more_than_a_call_carries"),
    ("grace", sim, "TIMES", Timing(sim.LEASE_S, settle_s=0.3, grace_s=0.0), "emptied_and_taken_by_the_next"),
    (
        "first",
        RebalancePlanner,
        "observe",
        observe_and_claim_at_once,
        "stopped_owner_wakes_in_an_emptied_store",
    ),
    (
        "first, seen first",
        RebalancePlanner,
        "observe",
        observe_and_claim_at_once,
        "stale_owner_sees_the_emptied_store_before_its_lease_is_over",
    ),
    (
        "handed over",
        store,
        "was_handed",
        lambda _: False,
        "stale_owner_is_handed_its_slot_in_an_emptied_store",
    ),
    ("sweep", handover, "_SWEEP_S", float("inf"), "closing_is_forgotten"),
    ("doubles", EarlierSteps, "add", lambda *_: None, "lost_answer_of_a_part_then_killed"),
    ("late part", LiveEnv, "_require_new", lambda *_: None, "late_copy_of_a_part"),
    ("change of the map", MemoryStore, "changes_since", forget_the_third_change, "slot_comes_back"),
    ("state", Recorder, "repersist", repersist_the_header_alone, "snapshot_in_a_store_that_forgot_it"),
]


async def install_whatever_comes(
    fence: MemoryFence,
    generation: str,
    version: int,
    tokens: Mapping[int, str],
    since: Mapping[int, int] = NOT_BEFORE,
) -> dict[int, Installation]:
    """Takes installations in the order in which they arrive."""
    return await _install(fence, generation, sys.maxsize, tokens)


class Believed:
    """Takes a slot for proved as soon as the store says whose it is."""

    def __init__(self, own: ShardOwnership) -> None:
        self._own = own
        self.follow = own.follow
        self.is_away = False

    def token_of(self, slot: int) -> str | None:
        """The token of the store."""
        return self._own._table.tokens.get(slot)


def require_no_proofs(table: SlotTable, proofs: Sequence[ShardOwnership]) -> None:
    """Owns slots that are not installed yet."""
    _require_proofs(table, [Believed(own) for own in proofs])


async def install_and_keep_what_is_here(own: ShardOwnership, leases: Any, evict: Any) -> None:
    """Takes what is in memory for what the log has, whoever wrote there meanwhile."""
    for slot, held in own._held.items():
        own._held[slot] = held._replace(version=sys.maxsize)
    await _install_own(own, leases, evict)


def follow_the_map_alone(
    own: ShardOwnership, is_of_another: Callable[[int], bool], released: Collection[int]
) -> None:
    """Goes on in slots that were given up, if the map says nothing else."""
    _follow(own, is_of_another, ())


async def confirm_whatever_was_written(own: ShardOwnership, slots: Collection[int]) -> Collection[int]:
    """Hands slots over whatever became of what was written."""
    return ()


async def never_advance(store: MemoryStore, version: int) -> None:
    """Leaves the version of the map as it is."""


_follow = ShardOwnership.follow
_install, _install_own, _require_proofs = (
    MemoryFence.install,
    ShardOwnership._install,
    SlotTable.require_proofs,
)

SHARD_MUTATIONS: list[tuple[str, Any, str, Any, str]] = [
    ("order", MemoryFence, "install", install_whatever_comes, "installation_that_was_held_up"),
    ("former token", MemoryEventLog, "commit", commit_of_anybody, "installation_that_was_held_up"),
    (
        "installed first",
        SlotTable,
        "require_proofs",
        require_no_proofs,
        "heir_that_could_read_before_it_is_installed",
    ),
    (
        "memory",
        ShardOwnership,
        "_install",
        install_and_keep_what_is_here,
        "stopped_owner_wakes_when_only_the_store_was_emptied",
    ),
    ("asked again", ShardOwnership, "was_refused", lambda _: False, "log_that_forgot_an_installation"),
    (
        "given up before",
        ShardOwnership,
        "follow",
        follow_the_map_alone,
        "owner_that_was_cut_off_in_a_store_that_turned_back",
    ),
    ("idle", Journal, "is_away", False, "log_is_away_for_longer_than_an_environment_may_idle"),
    ("groups", Journal, "_attempt", lambda _, group: group.writes, "more_was_put_off_than_a_call_carries"),
    ("advance", MemoryStore, "advance", never_advance, "store_that_turned_back"),
    (
        "confirmed",
        ShardOwnership,
        "unconfirmed",
        confirm_whatever_was_written,
        "handed_over_right_after_its_log_was_emptied",
    ),
    ("proof", SlotTable, "provable", lambda table: table.tokens, "woken_owner_finds_its_log_emptied"),
]


@pytest.mark.usefixtures("few_slots")
@pytest.mark.parametrize(
    ("target", "guard", "mutant", "schedule"),
    [m[1:] for m in (*MUTATIONS, *SHARD_MUTATIONS)],
    ids=[m[0] for m in (*MUTATIONS, *SHARD_MUTATIONS)],
)
def test_schedule_fails_without_its_guard(
    target: Any, guard: str, mutant: Any, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it ends well with all of them is shown by ``test_schedules.py``."""
    monkeypatch.setattr(target, guard, mutant)
    with pytest.raises(AssertionError):
        run(schedule)


async def return_at_any_change(table: SlotTable, holds: Callable[[], bool], timeout_s: float) -> None:
    """Wakes whoever waits whenever the table is assigned, with the same owners as well."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0 if holds() else timeout_s):
            await table._changed.wait()


@pytest.mark.usefixtures("few_slots")
def test_calls_that_wake_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch waits for two slots while the log is away; what each part looks for has the table assigned again."""

    def play() -> None:
        machine = ClusterMachine(1)
        try:
            machine.begin(slots=[0])
            machine.start(is_upgraded=True, after=0.0025)
            machine.create(slot=7, is_snapshot=True, ttl_s=TTL_S, after=0.5)
            machine.partition_from_one(place=5, wire=1, after=0)
            machine.upgrade(place=0, is_graceful=True, after=0.0015)
            machine.empty_store(after=0.05)
            machine.step_together(place=3, form=(True, True), after=8)
            machine.lose_sight(wire=3, looks=11, after=5)
            machine.world.finish()
        finally:
            machine.world.end()

    play()
    monkeypatch.setattr(SlotTable, "wait_until", return_at_any_change)
    with pytest.raises(AssertionError, match="called map_version"):
        play()


def run(name: str) -> None:
    """Play a schedule in a world of its own."""
    world = sim.settled(2 if name in SHARD_SCHEDULES else 0)
    try:
        (SCHEDULES | SHARD_SCHEDULES)[name](world)
        world.finish()
    finally:
        world.end()
