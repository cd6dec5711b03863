"""Sequences of events around several logs beside one store, that would go wrong without a certain guard."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.awaiting import ask
from tests.sim.schedules import created, play, until_moved
from tests.sim.wires import LIMITS, Fate, at_once
from tests.sim.world import LEASE_S, NUM_SLOTS, SHORT_TTL_S, World
from verl_agent_env.cluster.store import holder_of
from verl_agent_env.types import slot_of


def installation_that_was_held_up(world: World) -> None:
    """A copy of the former owner's installation arrives when its heir owns the slot, then a state that it was to write."""
    client, owner, heir = created(world, is_snapshot=True)
    client.is_void = True
    fence, slot, env_id = world.fence_of(client), slot_of(client.env_id), client.env_id
    generation, installed = at_once(fence.generation()), fence._installed[slot]
    owner.wire_to(client).fates["commit"].append(Fate(is_held_up=True))
    late = owner.spawn(ask(owner.host.step, env_id, "one", 2))
    world.turns(3)
    world.pause(owner)
    until_moved(world, client, heir)
    answered = heir.spawn(ask(heir.host.step, env_id, "other", 2))
    world.run(0.1)
    assert answered.exception() is None
    kept = world.simulated.kept[env_id].snapshot
    at_once(fence.install(generation, installed.version, {slot: installed.token}))
    owner.wire_to(client).let_go()
    assert world.simulated.kept[env_id].snapshot == kept, "a state was written over one that was answered"
    world.heal()
    world.run(LEASE_S)
    assert late.exception() is not None


def heir_that_could_read_before_it_is_installed(world: World) -> None:
    """Cut off from the store alone, the owner still writes to the log, and answers, until its heir is installed there."""
    client, owner, heir = created(world, is_snapshot=True)
    client.is_void = True
    slot, env_id = slot_of(client.env_id), client.env_id
    world.partition_from_one(owner, 0)
    heir.wire_to(client).fates["install"].append(Fate(delay_s=0.9))
    world.run(LEASE_S * 0.6)
    owner.wire_to(client).fates["commit"].append(Fate(loses_request=True))
    first = owner.spawn(ask(owner.host.step, env_id, "one", 2))
    incarnation = heir.member.record.incarnation
    while holder_of(world.simulated.store._tokens.get(slot, "")) != incarnation:
        world.run(0.02)
    world.run(0.02)
    others = [heir.spawn(heir.serve(env_id, lambda: heir.host.step(env_id, "other", 2)))]
    world.run(2.5)
    others.append(heir.spawn(heir.serve(env_id, lambda: heir.host.step(env_id, "other", 2))))
    world.run(0.5)
    assert first.exception() is None
    answered = [other for other in others if other.done() and other.exception() is None]
    assert not answered, "two different answers for one step"


def stopped_owner_wakes_when_only_the_store_was_emptied(world: World) -> None:
    """What a woken worker holds is old; the emptied store cannot tell it so, but the log can."""
    client, owner, heir = created(world)
    world.pause(owner)
    until_moved(world, client, heir)
    play(world, client, 3)
    world.kill(heir, is_reported=True)
    world.empty_store()
    world.heal()
    world.run(LEASE_S * 6)
    play(world, client, 1)


def log_that_forgot_an_installation(world: World) -> None:
    """A log turns back to before its present owner was installed: what the owner holds is newer, and it goes on."""
    client, owner, heir = created(world)
    world.note_copy()
    world.kill(owner, is_reported=True)
    until_moved(world, client, heir)
    play(world, client, 2)
    confirmed = client.confirmed
    world.roll_back_one(world.shard_of(client))
    world.run(1.0)
    client.is_void = True
    step = heir.spawn(ask(heir.host.step, client.env_id, client.action(confirmed), confirmed))
    world.run(1.0)
    assert step.done()
    assert step.exception() is None


def store_that_turned_back(world: World) -> None:
    """The store says once more that the slot is its former owner's, in a map that is older than what the log knows."""
    client, owner, heir = created(world)
    world.note_copy()
    # By a clock that is ahead of that of the server which takes its place.
    world.simulated.store._version += 10**9
    world.pause(owner)
    until_moved(world, client, heir)
    play(world, client, 3)
    world.heal()
    world.run(0.1)
    world.roll_back_one(-1)
    world.run(LEASE_S * 2)
    play(world, client, 1)


def owner_that_was_cut_off_in_a_store_that_turned_back(world: World) -> None:
    """The store says the same as before the owner was cut off, and nothing of its heir, which went on meanwhile."""
    client, owner, heir = created(world)
    world.note_copy()
    world.partition(owner)
    until_moved(world, client, heir)
    play(world, client, 3)
    # So it leaves the slot to the other one.
    heir.spawn(heir.member.drain(1.0))
    world.run(0.1)
    world.roll_back_one(-1)
    world.heal()
    world.run(LEASE_S * 4)
    play(world, client, 1)


def woken_owner_finds_its_log_emptied(world: World) -> None:
    """A stopped owner wakes when its lease is over, and its log has just been emptied: its heir alone may write there."""
    client, owner, heir = created(world, is_snapshot=True)
    client.is_void = True
    owner.wire_to(client).fates["commit"].append(Fate(loses_request=True))
    first = owner.spawn(ask(owner.host.step, client.env_id, "one", 2))
    world.turns(3)
    world.pause(owner)
    until_moved(world, client, heir)
    second = heir.spawn(ask(heir.host.step, client.env_id, "other", 2))
    world.run(0.1)
    assert second.exception() is None
    heir.wire_to(client).fates["install"].append(Fate(delay_s=0.9))
    owner.wire.is_cut = True
    world.empty_shard(world.shard_of(client))
    world.loop.wake(owner.process)
    world.run(LEASE_S * 2)
    assert first.exception() is not None, "two different answers for one step"
    world.heal()


def handed_over_right_after_its_log_was_emptied(world: World) -> None:
    """A log is emptied, and before its owner notices, a worker joins that the slot is meant for."""
    clients = [world.create(slot) for slot in range(NUM_SLOTS)]
    for client in clients:
        world.ask(client, world.worker_for(client), "create")
    world.run(3.0)
    world.start()
    # The first slots are given up, to be handed over a moment later; nothing is left to write of what is in them.
    while all(any(worker.table.owns(slot) for worker in world.workers) for slot in range(NUM_SLOTS)):
        world.run(0.0005)
    for shard in world.simulated.shards:
        shard.clear()
    world.run(LEASE_S * 4)
    for client in clients:
        play(world, client, 1)


def more_was_put_off_than_a_call_carries(world: World) -> None:
    """A log is away, and has forgotten an installation when it is back: all that was to be written waits for another one."""
    client, owner, _ = created(world)
    wire = owner.wire_to(client)
    wire.is_cut = True
    for ahead in range(2 * LIMITS.writes):
        world.ask(client, owner, "step", client.confirmed + ahead)
    wire.fates["install"].append(Fate(delay_s=0.9))
    world.run(0.5)
    del world.fence_of(client)._installed[slot_of(client.env_id)]
    wire.is_cut = False
    world.run(LEASE_S * 2)
    assert client.confirmed == 2 + 2 * LIMITS.writes
    play(world, client, 1)


def log_is_away_for_longer_than_an_environment_may_idle(world: World) -> None:
    """A step waits for its log for longer than the ttl, while its owner has its lease: the environment is in use."""
    client, owner, _ = created(world, ttl_s=SHORT_TTL_S)
    owner.wire_to(client).is_cut = True
    world.ask(client, owner, "step", client.confirmed)
    world.run(SHORT_TTL_S + 1.0)
    owner.wire_to(client).is_cut = False
    world.run(1.0)
    assert not client.is_void
    play(world, client, 1)


SHARD_SCHEDULES: dict[str, Callable[[World], None]] = {
    schedule.__name__: schedule
    for schedule in (
        installation_that_was_held_up,
        heir_that_could_read_before_it_is_installed,
        stopped_owner_wakes_when_only_the_store_was_emptied,
        log_that_forgot_an_installation,
        store_that_turned_back,
        owner_that_was_cut_off_in_a_store_that_turned_back,
        woken_owner_finds_its_log_emptied,
        handed_over_right_after_its_log_was_emptied,
        more_was_put_off_than_a_call_carries,
        log_is_away_for_longer_than_an_environment_may_idle,
    )
}
