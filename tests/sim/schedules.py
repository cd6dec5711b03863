"""Sequences of events that once went wrong, or would without a certain guard."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.awaiting import ask
from tests.sim.episodes import Client
from tests.sim.wires import Fate
from tests.sim.world import LEASE_S, NUM_SLOTS, SHORT_TTL_S, TTL_S, Worker, World
from verl_agent_env.errors import EnvironmentClosedError, ReplayDivergedError
from verl_agent_env.types import slot_of


def created(
    world: World, *, is_snapshot: bool = False, steps: int = 2, ttl_s: float = TTL_S
) -> tuple[Client, Worker, Worker]:
    """An environment that took some steps; its owner, and the other worker."""
    client = world.create(_slot_in_use(world), is_snapshot=is_snapshot, ttl_s=ttl_s)
    world.ask(client, world.worker_for(client), "create")
    world.run(0.05)
    play(world, client, steps)
    owner = world.worker_for(client)
    (other,) = (worker for worker in world.workers if worker is not owner)
    return client, owner, other


def _slot_in_use(world: World) -> int:
    """A slot that the second worker owns."""
    return next(slot for slot in range(NUM_SLOTS) if world.workers[1].table.owns(slot))


def play(world: World, client: Client, steps: int) -> None:
    for _ in range(steps):
        confirmed = client.confirmed
        world.ask(client, world.worker_for(client), "step", confirmed)
        world.run(0.05)
        assert client.confirmed == confirmed + 1


def until_moved(world: World, client: Client, heir: Worker, *, look_s: float = 0.1) -> None:
    for _ in range(500):
        if heir.table.owns(slot_of(client.env_id)):
            return
        world.run(look_s)
    raise AssertionError("the slot did not move")


def stopped_before_the_append(world: World) -> None:
    """Stopped with a step applied and not written; its heir plays on; woken, it must not write or answer."""
    client, owner, heir = created(world)
    owner.wire_to(client).fates["commit"].append(Fate(delay_s=LEASE_S * 3))
    world.ask(client, owner, "step", client.confirmed)
    world.turns(3)
    world.pause(owner)
    until_moved(world, client, heir)
    play(world, client, 2)
    world.heal()
    world.run(LEASE_S * 4)
    play(world, client, 1)


def stopped_with_an_answer_on_the_way(world: World) -> None:
    """Stopped after the append; woken when its heir has gone on, it may repeat what is written, and no more."""
    client, owner, heir = created(world)
    world.ask(client, owner, "step", client.confirmed)
    world.run(0.0015)
    world.pause(owner)
    until_moved(world, client, heir)
    play(world, client, 3)
    world.heal()
    world.turns(2)
    world.ask(client, owner, "step", client.confirmed)
    world.run(0.5)


def woken_owner_is_asked_at_once(world: World) -> None:
    """Calls that wait for a stopped worker find its lease over: what it remembers is old."""
    client, owner, heir = created(world)
    world.pause(owner)
    world.ask(client, owner, "step", client.confirmed - 1)
    until_moved(world, client, heir)
    play(world, client, 3)
    owner.cut()
    world.loop.wake(owner.process)
    for back in (1, 0):
        world.ask(client, owner, "step", client.confirmed - back)
    world.run(0.02)


def step_of_an_earlier_episode_arrives_late(world: World) -> None:
    """A copy of an append comes after the reset, when the new episode is as long as the old one was."""
    client, owner, _ = created(world, steps=0)
    owner.wire_to(client).fates["commit"].append(Fate(copy_after_s=1.0))
    play(world, client, 1)
    world.ask(client, owner, "reset")
    world.run(2.0)
    assert client.epoch == 1
    die_and_check(world, client, owner)


def late_copies_of_appends(world: World) -> None:
    """Copies of appends come when others have followed."""
    client, owner, _ = created(world)
    owner.wire_to(client).fates["commit"] += [
        Fate(copy_after_s=1.0),
        Fate(copy_after_s=1.3),
        Fate(copy_after_s=0.02),
    ]
    play(world, client, 4)
    world.run(2.0)
    die_and_check(world, client, owner)


def lost_answer_of_an_append(world: World) -> None:
    """Whether an append was made is not known; it is sent again and must count once."""
    client, owner, _ = created(world)
    owner.wire_to(client).fates["commit"] += [Fate(loses_answer=True), Fate(loses_answer=True)]
    world.ask(client, owner, "step", client.confirmed)
    world.run(3.5)
    assert client.confirmed == 3
    play(world, client, 2)
    die_and_check(world, client, owner)


def lost_answer_of_a_part_then_killed(world: World) -> None:
    """A batch names one environment three times; its owner does all of it, the answer is lost, and the owner dies."""
    for is_snapshot in (False, True):
        client, owner, other = created(world, is_snapshot=is_snapshot)
        other.peers.fates.append(Fate(loses_answer=True))
        world.ask_batch([client], other, (False, True, False))
        world.run(0.2)
        world.kill(owner, is_reported=True)
        world.start()
        world.run(LEASE_S * 4)
        assert client.confirmed == 5
        play(world, client, 1)


def late_copy_of_a_part(world: World) -> None:
    """A copy of a part is held up, and comes when others have followed: none of it is done again."""
    client, _, other = created(world)
    for form in ((False,), (False, False, False)):
        other.peers.fates.append(Fate(copy_after_s=2.0))
        world.ask_batch([client], other, form)
        world.run(0.2)
        play(world, client, 2)
        world.run(3.0)
        play(world, client, 1)


def request_lost_then_killed(world: World) -> None:
    """The append is lost on the way, and then the worker: nobody was told of the step."""
    client, owner, _ = created(world)
    owner.wire_to(client).fates["commit"].append(Fate(loses_request=True))
    world.ask(client, owner, "step", client.confirmed)
    world.run(0.01)
    die_and_check(world, client, owner)


def slot_comes_back(world: World) -> None:
    """Cut off, the slot goes to another worker, which plays on and dies before the old one looks: what it holds is old."""
    client, owner, heir = created(world)
    world.pause(owner)
    until_moved(world, client, heir)
    play(world, client, 3)
    owner.cut()
    world.loop.wake(owner.process)
    world.run(0.1)
    world.kill(heir, is_reported=True)
    # Whatever the old owner sees next, the slot has no owner, or is its own again.
    owner.reconnect()
    world.run(LEASE_S * 3)
    play(world, client, 1)


def emptied_and_taken_by_the_next(world: World) -> None:
    """The store is emptied; a worker that is back first must not take what the others still hold."""
    clients = []
    for _ in range(2):
        clients.append(created(world)[0])
    owner = world.worker_for(clients[0])
    world.run(3.0)
    world.empty()
    assert not clients[0].is_forgiven
    # Its owner's heartbeat comes a little later than the other's.
    owner.wire.fates["heartbeat"].append(Fate(delay_s=0.4))
    world.run(LEASE_S * 3)
    for client in clients:
        play(world, client, 1)


def emptied_before_the_first_step(world: World) -> None:
    """An environment that took no step is in memory, too, when the store is emptied."""
    client, owner, _ = created(world, steps=0)
    world.run(3.0)
    world.empty()
    world.run(LEASE_S * 6)
    assert not client.is_forgiven
    die_and_check(world, client, owner)


def two_answers_for_one_step(world: World, *, is_snapshot: bool = False) -> None:
    """A step that could not be written is sent to the heir with another action; then the slot comes back."""
    client, owner, heir = created(world, is_snapshot=is_snapshot)
    client.is_void = True
    owner.wire_to(client).fates["commit"].append(Fate(loses_request=True))
    first = owner.spawn(ask(owner.host.step, client.env_id, "one", 2))
    world.turns(3)
    world.pause(owner)
    until_moved(world, client, heir)
    second = heir.spawn(ask(heir.host.step, client.env_id, "other", 2))
    world.run(0.1)
    assert second.done()
    world.kill(heir, is_reported=True)
    world.heal()
    world.run(LEASE_S * 3)
    assert first.exception() is not None, "two different answers for one step"


def two_states_after_one_step(world: World) -> None:
    """The same for an environment that is kept as its state, which could simply be written over."""
    two_answers_for_one_step(world, is_snapshot=True)


def snapshot_in_a_store_that_forgot_it(world: World) -> None:
    """A state that the store lost is re-persisted, whole: its owner dies right after."""
    client, owner, _ = created(world, is_snapshot=True)
    world.run(3.0)
    world.simulated.forget()
    play(world, client, 1)
    die_and_check(world, client, owner)


def late_copy_of_a_repersisting(world: World) -> None:
    """All of an environment is re-persisted; a copy of that comes when more steps have followed."""
    client, owner, _ = created(world)
    world.simulated.forget()
    owner.wire_to(client).fates["commit"] += [Fate(), Fate(copy_after_s=1.0)]
    play(world, client, 3)
    world.run(1.5)
    die_and_check(world, client, owner)


def late_copy_of_a_repersisted_snapshot(world: World) -> None:
    """The same for an environment that is kept as its state."""
    client, owner, _ = created(world, is_snapshot=True)
    world.simulated.forget()
    owner.wire_to(client).fates["commit"] += [Fate(), Fate(copy_after_s=1.0)]
    play(world, client, 3)
    world.run(1.5)
    die_and_check(world, client, owner)


def journal_of_another_version(world: World) -> None:
    """What is kept does not play as it did: it is refused, not played differently."""
    client, owner, _ = created(world)
    confirmed = client.confirmed
    world.kill(owner, is_reported=True)
    world.spoil(client)
    client.is_void = True
    world.run(LEASE_S * 2)
    heir = world.worker_for(client)
    call = heir.spawn(ask(heir.host.step, client.env_id, client.action(confirmed), confirmed))
    world.run(0.5)
    assert isinstance(call.exception(), ReplayDivergedError), "what plays differently was played on"


def killed_right_after_the_answer(world: World) -> None:
    """Whatever was answered is there, though its worker dies within the same instant."""
    client, owner, _ = created(world)
    owner.wire_to(client).fates["commit"].append(Fate(delay_s=0.3))
    world.ask(client, owner, "step", client.confirmed)
    world.turns(4)
    confirmed = client.confirmed
    owner.cut()
    world.run(0.4)
    die_and_check(world, client, owner, at_least=confirmed)


def stale_owner_finds_what_lives_elsewhere_idle(world: World) -> None:
    """Cut off for longer than the ttl; the client goes on at the heir; the slots come home."""
    client, owner, heir = created(world, ttl_s=SHORT_TTL_S)
    world.partition(owner)
    until_moved(world, client, heir)
    for _ in range(round(2.5 * SHORT_TTL_S)):
        play(world, client, 2)
        world.run(0.9)
    world.heal()
    until_moved(world, client, owner)
    play(world, client, 2)


def end_that_was_not_written_in_time(world: World) -> None:
    """Idle, its owner writes its end, which does not arrive; the client goes on at the heir, which dies."""
    client, owner, heir = created(world, ttl_s=SHORT_TTL_S)
    world.run(SHORT_TTL_S - 0.2)
    world.partition(owner)
    until_moved(world, client, heir)
    play(world, client, 2)
    world.kill(heir, is_reported=True)
    world.heal()
    # Its next try gets lost, and for the one after that the slot is its own again.
    owner.wire_to(client).fates["commit"].append(Fate(loses_request=True))
    until_moved(world, client, owner)
    world.run(2.2)
    owner.wire_to(client).fates.clear()
    play(world, client, 2)


def asked_again_while_its_end_is_written(world: World) -> None:
    """Idle, its end is on its way to the log, when a step is sent again, another one, and a look: none gets an answer of a live one."""
    for is_snapshot in (False, True):
        client, owner, _ = created(world, is_snapshot=is_snapshot, ttl_s=SHORT_TTL_S)
        world.run(SHORT_TTL_S)
        owner.wire_to(client).fates["commit"].append(Fate(delay_s=0.6))
        world.run(SHORT_TTL_S / 8 + 0.1)
        for back in (1, 0):
            world.ask(client, owner, "step", client.confirmed - back)
        look = owner.spawn(ask(owner.host.read, client.env_id, str))
        world.run(1.0)
        assert isinstance(look.exception(), EnvironmentClosedError)
        assert client.is_void, "the environment was answered for, and closed all the same"


def refused_for_a_step_that_was_never_written(world: World) -> None:
    """Steps are applied and not written; one is sent again, and is told of those after it; then their worker dies."""
    client, owner, _ = created(world)
    world.partition(owner)
    for ahead in (0, 1, 0):
        world.ask(client, owner, "step", client.confirmed + ahead)
    world.run(0.5)
    die_and_check(world, client, owner)


def old_write_fails_when_its_environment_has_come_back(world: World) -> None:
    """What could not be written is refused when the slot has come back: that says nothing of what was brought back."""
    client, owner, heir = created(world)
    _unwritten_until_moved(world, client, owner, heir)
    play(world, client, 2)
    world.heal()
    # For the try after this one the slot has come back.
    owner.wire_to(client).fates["commit"].append(Fate(loses_request=True))
    world.kill(heir, is_reported=True)
    world.run(3.0)
    world.empty()
    assert not client.is_forgiven
    world.run(LEASE_S * 3)
    play(world, client, 1)


def new_write_comes_upon_old_ones_that_were_put_off(world: World) -> None:
    """The heir dies; what its successor could not write before, as the owner of then, is still there when it may write again."""
    client, owner, heir = created(world)
    _unwritten_until_moved(world, client, owner, heir)
    play(world, client, 2)
    world.kill(heir)
    world.run(LEASE_S * 1.5)
    world.heal()
    until_moved(world, client, owner, look_s=0.01)
    play(world, client, 2)


def _unwritten_until_moved(world: World, client: Client, owner: Worker, heir: Worker) -> None:
    """Cut the owner off from the store with a step that it has applied, until its slot has gone to the heir."""
    world.partition(owner)
    world.ask(client, owner, "step", client.confirmed)
    world.turns(3)
    until_moved(world, client, heir)


def forgotten_with_a_write_on_its_way(world: World) -> None:
    """A worker drops its copy while a step of it is on its way; the step is asked for once more, as another one."""
    client, owner, _ = created(world)
    client.is_void = True
    owner.wire_to(client).fates["commit"].append(Fate(delay_s=0.3))
    first = owner.spawn(ask(owner.host.step, client.env_id, "one", 2))
    world.turns(3)
    owner.host.env_table.evict_moved(client.env_id)
    second = owner.spawn(ask(owner.host.step, client.env_id, "other", 2))
    world.run(1.0)
    assert first.exception() is None
    assert second.exception() is not None, "two different answers for one step"


def upgraded_under_load(world: World) -> None:
    """Workers are replaced one by one by such that say everything in other words: all episodes go on, and back again."""
    clients = [created(world, is_snapshot=nth % 2 == 1)[0] for nth in range(3)]
    for is_upgraded in (True, False):
        for worker in list(world.workers):
            world.start(is_upgraded=is_upgraded)
            world.run(LEASE_S)
            worker.spawn(worker.member.drain(4.0))
            for _ in range(8):
                for client in clients:
                    world.ask(client, world.worker_for(client), "step", client.confirmed)
                world.run(0.25)
            world.kill(worker, is_reported=True)
            world.run(0.5)
    for client in clients:
        play(world, client, 1)


def killed_before_the_upgrade(world: World) -> None:
    """A worker dies in the middle of an episode, and its heir is of another version."""
    for is_snapshot in (False, True):
        client, owner, other = created(world, is_snapshot=is_snapshot, steps=5)
        world.start(is_upgraded=True)
        world.kill(other, is_reported=True)
        world.kill(owner, is_reported=True)
        world.run(LEASE_S * 2)
        play(world, client, 2)
        world.start()
        world.run(LEASE_S * 2)


def answers_of_parts_are_lost(world: World) -> None:
    """Parts of batches without numbers are carried out, and their answers get lost, several times."""
    clients = [created(world, is_snapshot=nth % 2 == 1)[0] for nth in range(3)]
    for form in ((False,), (True, True), (True,), (False, True, False)):
        asked = world.workers[0]
        asked.peers.fates += [Fate(loses_answer=True), Fate(loses_answer=True)]
        confirmed = [client.confirmed for client in clients]
        world.ask_batch(clients, asked, form)
        world.run(5.0)
        assert [client.confirmed for client in clients] == [c + len(form) for c in confirmed]
    for client in clients:
        assert not client.is_void
        play(world, client, 1)


def more_than_a_call_carries(world: World) -> None:
    """Many environments with long journals are written anew at once, and then brought back, all in bounded calls."""
    clients = [created(world, is_snapshot=nth % 2 == 1, steps=7)[0] for nth in range(5)]
    world.run(3.0)
    world.empty()
    world.run(LEASE_S * 6)
    assert not any(client.is_forgiven for client in clients)
    die_and_check(world, clients[0], world.worker_for(clients[0]))
    for client in clients:
        play(world, client, 1)


def stopped_owner_wakes_in_an_emptied_store(world: World) -> None:
    """What a woken worker holds is old, but in an emptied store nobody can tell it so; the heir, who knows more, comes first."""
    client, owner, heir = created(world)
    world.pause(owner)
    until_moved(world, client, heir)
    play(world, client, 3)
    world.heal()
    world.empty()
    world.run(LEASE_S * 4)
    assert client.confirmed == 5
    play(world, client, 1)


def stale_owner_sees_the_emptied_store_before_its_lease_is_over(world: World) -> None:
    """Cut off, it has missed that its slot went to the heir; it reads the emptied map before a heartbeat tells it that it was away."""
    client, owner, heir = created(world)
    world.partition(owner)
    until_moved(world, client, heir)
    play(world, client, 3)
    world.empty()
    world.heal()
    owner.wire.fates["heartbeat"].append(Fate(delay_s=0.3))
    heir.wire.fates["read_map"].append(Fate(delay_s=1.0))
    world.run(LEASE_S * 4)
    assert client.confirmed == 5
    play(world, client, 1)


def stale_owner_is_handed_its_slot_in_an_emptied_store(world: World) -> None:
    """Its slot went to the heir, which claims it in the emptied store as well, and hands it over before the owner has looked."""
    client, owner, heir = created(world)
    world.partition(owner)
    world.ask(client, owner, "step", client.confirmed)
    until_moved(world, client, heir)
    play(world, client, 3)
    world.empty()
    world.heal()
    owner.wire.fates["read_map"] += [Fate(delay_s=1.2), Fate(delay_s=1.2)]
    world.run(LEASE_S * 4)
    assert client.confirmed == 5
    play(world, client, 1)


def closing_is_forgotten(world: World) -> None:
    """The store turns back to where an environment lived that was closed since: nobody will ever ask for it."""
    client, owner, _ = created(world)
    world.note_copy()
    world.ask(client, owner, "close")
    world.run(0.1)
    assert client.is_closed
    world.roll_back()
    world.run(40.0)
    assert client.env_id not in world.simulated.kept


def die_and_check(world: World, client: Client, owner: Worker, at_least: int | None = None) -> None:
    """The owner dies; its heir knows all that was acknowledged."""
    confirmed = client.confirmed if at_least is None else at_least
    world.kill(owner, is_reported=True)
    world.run(LEASE_S * 2)
    assert client.confirmed >= confirmed
    play(world, client, 1)


SCHEDULES: dict[str, Callable[[World], None]] = {
    schedule.__name__: schedule
    for schedule in (
        stopped_before_the_append,
        stopped_with_an_answer_on_the_way,
        woken_owner_is_asked_at_once,
        step_of_an_earlier_episode_arrives_late,
        late_copies_of_appends,
        lost_answer_of_an_append,
        request_lost_then_killed,
        lost_answer_of_a_part_then_killed,
        late_copy_of_a_part,
        slot_comes_back,
        emptied_and_taken_by_the_next,
        emptied_before_the_first_step,
        two_answers_for_one_step,
        two_states_after_one_step,
        snapshot_in_a_store_that_forgot_it,
        late_copy_of_a_repersisting,
        late_copy_of_a_repersisted_snapshot,
        journal_of_another_version,
        killed_right_after_the_answer,
        stale_owner_finds_what_lives_elsewhere_idle,
        end_that_was_not_written_in_time,
        asked_again_while_its_end_is_written,
        refused_for_a_step_that_was_never_written,
        old_write_fails_when_its_environment_has_come_back,
        new_write_comes_upon_old_ones_that_were_put_off,
        forgotten_with_a_write_on_its_way,
        upgraded_under_load,
        killed_before_the_upgrade,
        answers_of_parts_are_lost,
        more_than_a_call_carries,
        stopped_owner_wakes_in_an_emptied_store,
        stale_owner_sees_the_emptied_store_before_its_lease_is_over,
        stale_owner_is_handed_its_slot_in_an_emptied_store,
        closing_is_forgotten,
    )
}
