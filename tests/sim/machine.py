"""Everything that may happen to a simulated cluster, in any order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec

from tests.sim.episodes import Client
from tests.sim.world import NUM_SLOTS, SHORT_TTL_S, TTL_S, Worker, World

_P = ParamSpec("_P")

AFTERWARDS = (0, 1, 2, 3, 5, 8, 0.0015, 0.0025, 0.05, 0.05, 0.5, 1.5)
PLACES = range(6)
SLOTS = range(NUM_SLOTS)
FORMS = (
    (True,),
    (True,),
    (False,),
    (True, True),
    (False, False),
    (False, False, False),
    (False, True, False),
)
TTLS = (TTL_S, TTL_S, SHORT_TTL_S)
FATES = ("lose_request", "lose_answer", "copy", "late_copy", "lose_answer_and_copy", "slow", "too_slow")
PEER_FATES = (
    "lose_request",
    "lose_answer",
    "lose_answer",
    "copy",
    "late_copy",
    "lose_answer_and_copy",
    "slow",
)
CALLS = ("commit", "commit", "commit", "load", "heartbeat", "claim", "hand_off", "read_map")
CALLS_OF_LOGS = ("commit", "load", "env_ids", "install", "install", "generation")
EITHER = (False, True)
MAX_WORKERS, MAX_CLIENTS = 3, 4


Condition = Callable[[World], bool]


def _always(_: World) -> bool:
    return True


def _has_others(world: World) -> bool:
    return len(world.workers) > 1


def _is_sharded(world: World) -> bool:
    return world.simulated.is_sharded


class Kind(NamedTuple):
    """What may happen: a method of a machine, with what may be handed to it, and when."""

    choices: Mapping[str, Sequence[Any]]
    condition: Condition


def event(
    condition: Condition = _always, **choices: Sequence[Any]
) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Mark a method of a machine as something that may happen."""

    def mark(method: Callable[_P, None]) -> Callable[_P, None]:
        vars(method)["kind"] = Kind(choices, condition)
        return method

    return mark


class ClusterMachine:
    """Workers are killed, stopped and cut off; messages are late, lost and doubled; nothing is ever lost."""

    def __init__(self, shards: int = 0) -> None:
        """Begin with nothing; with as many logs beside the store as ``shards`` says."""
        self.world = World(shards)

    def begin(self, slots: Sequence[int]) -> None:
        """Two workers with their shares, and some environments."""
        self.world.start()
        self.world.start()
        self.world.run(1.1)
        for nth, slot in enumerate(slots):
            client = self.world.create(slot, is_snapshot=nth % 2 == 1, ttl_s=SHORT_TTL_S if nth else TTL_S)
            self.world.ask(client, self.world.worker_for(client), "create")
        self.world.run(0.01)

    # --- clients --------------------------------------------------------------------------------------------

    @event(
        lambda world: len(world.clients) < MAX_CLIENTS,
        slot=SLOTS,
        is_snapshot=EITHER,
        ttl_s=TTLS,
        after=AFTERWARDS,
    )
    def create(self, slot: int, is_snapshot: bool, ttl_s: float, after: float) -> None:
        """Another environment."""
        client = self.world.create(slot, is_snapshot=is_snapshot, ttl_s=ttl_s)
        self.world.ask(client, self.world.worker_for(client), "create")
        self._pass(after)

    @event(place=PLACES, back=(0, 0, 0, 0, 1, 2), stray=PLACES, after=AFTERWARDS)
    def step(self, place: int, back: int, stray: int, after: float) -> None:
        """The next step, or an earlier one once more; now and then to somebody who cannot know."""
        client = self._client(place)
        if client.can_step:
            worker = self.world.worker_for(client)
            if stray == 0:
                worker = self.world.workers[place % len(self.world.workers)]
            self.world.ask(client, worker, "step", max(0, client.confirmed - back))
        elif client.pending:
            self.world.ask(client, self.world.worker_for(client), client.pending)
        self._pass(after)

    @event(place=PLACES, number=range(2, 5))
    def play(self, place: int, number: int) -> None:
        """Some steps in a row."""
        client = self._client(place)
        for _ in range(number):
            if client.can_step:
                self.world.ask(client, self.world.worker_for(client), "step", client.confirmed)
                self.world.run(0.01)

    @event(place=PLACES, after=AFTERWARDS)
    def step_out_of_order(self, place: int, after: float) -> None:
        """The step after the next one comes first."""
        client = self._client(place)
        if client.can_step:
            worker = self.world.worker_for(client)
            self.world.ask(client, worker, "step", client.confirmed + 1)
            self.world.ask(client, worker, "step", client.confirmed)
        self._pass(after)

    @event(place=PLACES, form=FORMS, after=AFTERWARDS)
    def step_together(self, place: int, form: Sequence[bool], after: float) -> None:
        """A batch, at any worker, which splits it; an environment may stand in it several times, and without numbers."""
        clients = [client for client in self.world.clients if client.can_step]
        if not all(form):
            clients = [client for client in clients if client.can_leave_numbers_out]
        if clients:
            self.world.ask_batch(clients, self._worker(place), form)
        self._pass(after)

    @event(place=PLACES, kind=PEER_FATES)
    def disturb_peers(self, place: int, kind: str) -> None:
        """Something will happen to a worker's next call to another one."""
        self._worker(place).peers.fates.append(self.world.fate(kind))

    @event(place=PLACES, verb=("reset", "reset", "close"), after=AFTERWARDS)
    def reset_or_close(self, place: int, verb: str, after: float) -> None:
        """Another episode, or none any more; nobody does that while steps are on their way."""
        client = self._client(place)
        if client.can_step and not client.is_busy:
            self.world.ask(client, self.world.worker_for(client), verb)
        self._pass(after)

    # --- workers --------------------------------------------------------------------------------------------

    @event(_has_others, place=PLACES, is_reported=EITHER, after=AFTERWARDS)
    def kill(self, place: int, is_reported: bool, after: float) -> None:
        """A process ends at once."""
        self.world.kill(self._worker(place), is_reported=is_reported)
        self._pass(after)

    @event(lambda world: len(world.workers) < MAX_WORKERS, is_upgraded=EITHER, after=AFTERWARDS)
    def start(self, is_upgraded: bool, after: float) -> None:
        """Another worker, of this version or the next."""
        self.world.start(is_upgraded=is_upgraded)
        self._pass(after)

    @event(_has_others, place=PLACES, is_graceful=EITHER, after=AFTERWARDS)
    def upgrade(self, place: int, is_graceful: bool, after: float) -> None:
        """A worker ends, in order or not, and one of the next version comes in its place."""
        worker = self._worker(place)
        if is_graceful and worker.is_up:
            self.world.disturbed()
            worker.spawn(worker.member.drain(2.0))
            self.world.run(2.0)
        self.world.kill(worker, is_reported=is_graceful)
        self.world.start(is_upgraded=True)
        self._pass(after)

    @event(place=PLACES, after=AFTERWARDS)
    def pause(self, place: int, after: float) -> None:
        """A process is stopped."""
        self.world.pause(self._worker(place))
        self._pass(after)

    @event(place=PLACES, after=AFTERWARDS)
    def partition(self, place: int, after: float) -> None:
        """A worker is cut off from the store."""
        self.world.partition(self._worker(place))
        self._pass(after)

    @event(place=PLACES, looks=range(6, 21), is_stopped=EITHER, after=AFTERWARDS)
    def stay_away(self, place: int, looks: int, is_stopped: bool, after: float) -> None:
        """A worker is away for so long that others go on with its environments, and comes back."""
        worker = self._worker(place)
        if is_stopped:
            self.world.pause(worker)
        else:
            self.world.partition(worker)
        for _ in range(looks):
            for client in self.world.clients:
                if client.can_step and not client.is_busy:
                    self.world.ask(client, self.world.worker_for(client), "step", client.confirmed)
            self.world.run(0.5)
        self.world.heal()
        self._pass(after)

    @event(after=AFTERWARDS)
    def heal(self, after: float) -> None:
        """All are woken and reconnected."""
        self.world.heal()
        self._pass(after)

    @event(_has_others, place=PLACES, after=AFTERWARDS)
    def drain(self, place: int, after: float) -> None:
        """A worker gives its slots to others, and takes them again."""
        self.world.disturbed()
        worker = self._worker(place)
        is_ready = worker.member.record.state == "ready"
        worker.spawn(worker.member.drain(2.0) if is_ready else worker.member.undrain())
        self._pass(after)

    @event(place=PLACES, call=CALLS, kind=FATES)
    def disturb(self, place: int, call: str, kind: str) -> None:
        """Something will happen to a worker's next message of a kind."""
        self.world.disturbed()
        worker = self._worker(place)
        wires = worker.log_wires if call in CALLS_OF_LOGS else ()
        for wire in wires or [worker.wire]:
            wire.fates[call].append(self.world.fate(kind))

    @event(_is_sharded, place=PLACES, log=PLACES, call=CALLS_OF_LOGS, kind=FATES)
    def disturb_log(self, place: int, log: int, call: str, kind: str) -> None:
        """Something will happen to a worker's next message to one of several logs."""
        self.world.disturbed()
        wires = self._worker(place).log_wires
        wires[log % len(wires)].fates[call].append(self.world.fate(kind))

    @event(_is_sharded, place=PLACES, wire=PLACES, after=AFTERWARDS)
    def partition_from_one(self, place: int, wire: int, after: float) -> None:
        """A worker is cut off from the store alone, or from one log alone."""
        self.world.partition_from_one(self._worker(place), wire)
        self._pass(after)

    @event(_is_sharded, wire=PLACES, looks=range(2, 14), after=AFTERWARDS)
    def lose_sight(self, wire: int, looks: int, after: float) -> None:
        """The store alone, or one log alone, is away for all workers, while clients go on, and comes back."""
        for worker in self.world.workers:
            self.world.partition_from_one(worker, wire)
        for _ in range(looks):
            for client in self.world.clients:
                if client.can_step and not client.is_busy:
                    self.world.ask(client, self.world.worker_for(client), "step", client.confirmed)
            self.world.run(0.5)
        self.world.heal()
        self._pass(after)

    @event(_is_sharded, after=AFTERWARDS)
    def empty_store(self, after: float) -> None:
        """The store comes back with nothing; what logs beside it have is lost to nobody."""
        self.world.empty_store()
        self._pass(after)

    @event(_is_sharded, after=AFTERWARDS)
    def remember_store(self, after: float) -> None:
        """The store writes itself to a disk."""
        self.world.note_copy()
        self._pass(after)

    @event(_is_sharded, after=AFTERWARDS)
    def roll_back_store(self, after: float) -> None:
        """The store comes back as it was then; logs beside it do not."""
        self.world.roll_back_one(-1)
        self._pass(after)

    @event(seconds=(0.002, 0.1, 0.7, 1.5, 2.5, 5.0))
    def tick(self, seconds: float) -> None:
        """Time passes."""
        self.world.run(seconds)

    def teardown(self) -> None:
        """In the end everything answers again."""
        try:
            self.world.finish()
        finally:
            self.world.end()

    def _client(self, place: int) -> Client:
        return self.world.clients[place % len(self.world.clients)]

    def _worker(self, place: int) -> Worker:
        return self.world.workers[place % len(self.world.workers)]

    def _pass(self, after: float) -> None:
        """Some turns of the loop, or some time."""
        if isinstance(after, int):
            self.world.turns(after)
        else:
            self.world.run(after)


class LosingMachine(ClusterMachine):
    """As :class:`ClusterMachine`, over a store that may be emptied, or turn back to an earlier copy."""

    @event()
    def remember(self) -> None:
        """The store writes itself to a disk."""
        self.world.note_copy()

    @event(after=AFTERWARDS)
    def roll_back(self, after: float) -> None:
        """The store comes back as it was then."""
        self.world.roll_back()
        self._pass(after)

    @event(_is_sharded, log=PLACES, after=AFTERWARDS)
    def roll_back_log(self, log: int, after: float) -> None:
        """One log comes back as it was then."""
        self.world.roll_back_one(log % len(self.world.simulated.shards))
        self._pass(after)

    @event(_is_sharded, log=PLACES, after=AFTERWARDS)
    def empty_log(self, log: int, after: float) -> None:
        """One log comes back with nothing."""
        self.world.empty_shard(log % len(self.world.simulated.shards))
        self._pass(after)

    @event(after=AFTERWARDS)
    def empty(self, after: float) -> None:
        """The store comes back with nothing."""
        self.world.empty()
        self._pass(after)
