"""Workers over one simulated store, clients that remember what they were told, and what must hold of both."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, cast

from tests import batch_calls
from tests.sim.counting import JOURNAL, SNAPSHOT, counting_registry
from tests.sim.episodes import Asked, Client
from tests.sim.peers import SimulatedPeers
from tests.sim.virtual_loop import VirtualLoop
from tests.sim.wires import LIMITS, Fate, SimulatedStore, Wire, at_once
from verl_agent_env import background
from verl_agent_env.cluster.backends import Backend
from verl_agent_env.cluster.log_shards import Fence, FencedLog
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.idempotency import MemoryIdempotencyRecords
from verl_agent_env.cluster.store import ClusterMap, Store, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.config import ClusterSettings, HostLimits
from verl_agent_env.engine import AwaitableOrValue, CreateRequest, await_maybe
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.engine.group_commit.packing import CallLimits
from verl_agent_env.engine.host.reaper import reap_forever
from verl_agent_env.errors import MovedError, StoreUnavailableError
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.cluster.membership import SharedMembership
from verl_agent_env.server.cluster.wiring import wire_worker
from verl_agent_env.types import slot_of
from verl_agent_env.wire.event_log import EventLog, shard_of
from verl_agent_env.wire.records import Entry

NUM_SLOTS = 8
LEASE_S = 2.0
TIMES = Timing(LEASE_S, settle_s=0.3, grace_s=2.0)
TTL_S = 3600.0
SHORT_TTL_S = 3.0
MAX_JOURNAL_BYTES = 400
"""So little that some histories begin anew with a state."""
SWEEP_S = 25.0
HEALING_S = 40.0
"""In which everything answers again, once nothing is broken any more."""


@dataclass(frozen=True)
class Shape:
    """What makes one simulated cluster another one than the next."""

    num_slots: int
    timing: Timing
    limits: HostLimits
    call_limits: CallLimits
    """What a call of the log carries."""
    workers_per_node: int = 0
    """0 for a single node."""

    def record(self, number: int, place: int) -> WorkerRecord:
        """The ``number``-th worker that is started, at the ``place``-th address."""
        node, port = (
            (place - 1, 80) if not self.workers_per_node else divmod(place - 1, self.workers_per_node)
        )
        name = f"node-{node}" if self.workers_per_node else "node"
        return WorkerRecord(
            incarnation=f"{number:032x}",
            name=f"{name}:{place}",
            node=name,
            supervisor=f"{name:>032}",
            address=f"10.0.{(node + 1) // 256}.{(node + 1) % 256}:{port}",
            pid=number,
            state="ready",
            started_at=float(number),
        )


def small_shape() -> Shape:
    """A few workers, so few slots and such small calls that everything has to be cut."""
    limits = HostLimits(yield_after_s=1e6, max_journal_bytes=MAX_JOURNAL_BYTES)
    return Shape(NUM_SLOTS, TIMES, limits, LIMITS)


async def _at_once(call: Callable[..., Any], *arguments: Any) -> None:
    """Call a function: there are no threads."""
    call(*arguments)


async def _nothing() -> tuple[str, ...]:
    """Try no commands: there is no Redis."""
    return ()


class Worker:
    """One worker process, wired as the server's are."""

    def __init__(self, world: World, number: int, place: int, *, is_upgraded: bool = False) -> None:
        self._loop = world.loop
        shape = world.shape
        record = shape.record(number, place)
        self.place = place
        """Number of its address."""
        self.process = world.loop.process(f"worker-{number}")
        self.wire = Wire(world.simulated, self.process.name)
        self.log_wires = [
            Wire(world.simulated, self.process.name, shard)
            for shard in range(len(world.simulated.shards) if world.simulated.is_sharded else 0)
        ]
        logs = [FencedLog(cast(EventLog, self.wire))]
        if self.log_wires:
            logs = [FencedLog(cast(EventLog, wire), cast(Fence, wire)) for wire in self.log_wires]
        self.address = address = record.address
        self.side = 0
        """Workers of different sides do not reach each other."""
        self.peers = SimulatedPeers(world, self)
        registry = counting_registry(is_upgraded=is_upgraded)
        self.worker = wire_worker(
            registry,
            shape.limits,
            ClusterSettings(node=record.node, redis="simulated:", durability=(f"{SNAPSHOT}=snapshot",)),
            WorkerIdentity(address, (), record.supervisor),
            Backend(
                cast(Store, self.wire),
                logs,
                MemoryIdempotencyRecords(TTL_S, 0, world.loop.time),
                _nothing,
            ),
            lambda _: self.peers,
            clock=world.loop.time,
            lease_clock=world.loop.time,
            timing=shape.timing,
            num_slots=shape.num_slots,
            kinds=KindLoader(registry, _at_once),
            record=record,
        )
        self.host, self.table, self.batches = self.worker.host, self.worker.table, self.worker.batches
        assert isinstance(self.worker.membership, SharedMembership)
        self.member = self.worker.membership.agent
        self.parts = {route.path: route.handler for route in self.worker.internal_routes}
        """What it carries out for other workers."""
        self.tasks = [self.spawn(self.worker.start()), self.spawn(reap_forever(self.host))]

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return not (self.process.is_dead or self.process.is_paused)

    @property
    def wires(self) -> list[Wire]:
        """Its ways to the store and all logs."""
        return [self.wire, *self.log_wires]

    def wire_to(self, client: Client) -> Wire:
        """Its way to the log that has a client's environment."""
        slot = slot_of(client.env_id)
        return self.log_wires[shard_of(slot, len(self.log_wires))] if self.log_wires else self.wire

    def cut(self) -> None:
        """Cut it off from the store and all logs."""
        for wire in self.wires:
            wire.is_cut = True

    def reconnect(self) -> None:
        """End :meth:`cut`."""
        for wire in self.wires:
            wire.is_cut = False

    def spawn(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let the process carry out a call."""
        return self._loop.create_task(call, context=self.process.context.copy())

    async def serve(self, env_id: str, call: Callable[[], AwaitableOrValue[Any]]) -> Any:
        """A call on one environment, if its slot is here."""
        if not self.table.owns(slot_of(env_id)):
            raise MovedError(slot_of(env_id))
        return await await_maybe(call())


class World:
    """All of it."""

    def __init__(self, shards: int = 0, shape: Shape | None = None) -> None:
        """Begin without workers.

        Args:
            shards: How many logs there are beside the store; without any, the store keeps the log.
            shape: Slots, nodes and times; those of a small cluster if not given.
        """
        self.shape = shape = shape or small_shape()
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._failed)
        self._log = _DefectLog(self)
        logging.getLogger(background.__name__).addHandler(self._log)
        self.simulated = SimulatedStore(self.loop, shards, shape.num_slots, shape.call_limits)
        self.workers: list[Worker] = []
        self.at: dict[str, Worker] = {}
        """The workers by address."""
        self.clients: list[Client] = []
        self.violations = self.simulated.violations
        self._numbers = itertools.count(1)
        self._copies: dict[int, tuple[dict[str, Any], list[Any]]] = {}
        """Copies of the store (-1) and of each log, with what the clients knew then."""
        self._fragile_until = 0.0

    # --- what happens to workers ----------------------------------------------------------------------------

    def start(self, *, is_upgraded: bool = False, place: int = 0) -> Worker:
        """Another worker, which may be of another version, and at the address of one that has ended."""
        # It does not know whose the slots were, and takes its share at once.
        self.disturbed()
        number = next(self._numbers)
        worker = Worker(self, number, place or number, is_upgraded=is_upgraded)
        self.turns(1)
        self.workers.append(worker)
        self.at[worker.address] = worker
        return worker

    def kill(self, worker: Worker, *, is_reported: bool = False) -> None:
        """End a process at once; its supervisor may tell the store."""
        self.disturbed()
        worker.process.is_dead = True
        self.workers.remove(worker)
        del self.at[worker.address]
        for other in self.workers:
            other.peers.died(worker)
        for client in self.clients:
            if client.unnumbered_at is worker.process:
                client.is_void, client.unnumbered_at = True, None
        if is_reported:
            self.loop.run_until_complete(self.simulated.store.leave(worker.member.record.incarnation))

    def pause(self, worker: Worker) -> None:
        """Stop a process, as SIGSTOP does."""
        self.disturbed()
        worker.process.is_paused = True

    def partition(self, worker: Worker) -> None:
        """Cut a worker off from the store."""
        self.disturbed()
        worker.cut()

    def partition_from_one(self, worker: Worker, place: int) -> None:
        """Cut a worker off from the store alone (0), or from one log alone."""
        self.disturbed()
        worker.wires[place % len(worker.wires)].is_cut = True

    def heal(self) -> None:
        """Wake all, reconnect all."""
        for worker in self.workers:
            worker.reconnect()
            for wire in worker.wires:
                wire.fates.clear()
            worker.peers.fates.clear()
            if worker.process.is_paused:
                self.loop.wake(worker.process)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.check()

    def turns(self, number: int) -> None:
        """Let everybody act a little, in no time."""

        async def turn() -> None:
            for _ in range(number):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())
        self.check()

    # --- what happens to the store --------------------------------------------------------------------------

    def empty(self) -> None:
        """The store loses everything; whoever holds something states it again, if nothing else goes wrong."""
        self._forgive_not_held(self.clients)
        self.simulated.empty()
        self._copies.clear()

    def empty_shard(self, number: int) -> None:
        """One of several logs loses everything; whoever holds something of it states it again, if nothing else goes wrong."""
        self._forgive_not_held([client for client in self.clients if self.shard_of(client) == number])
        self.simulated.shards[number].clear()
        self._copies.pop(number, None)

    def empty_store(self) -> None:
        """The store loses everything, and the logs nothing: whatever was acknowledged stays."""
        self.disturbed()
        self._forget_leases()
        self.simulated.store.clear()
        self._copies.pop(-1, None)

    def _forget_leases(self) -> None:
        """Whoever believes in a lease that the store does not know any more may refuse calls by what was."""
        for client in self.clients:
            client.outdated_until = self.loop.now + LEASE_S

    def note_copy(self) -> None:
        """Remember the store and all logs as they are, for :meth:`roll_back`."""
        marks = [client.mark() for client in self.clients]
        self._copies = {number: (shard.copy(), marks) for number, shard in enumerate(self.simulated.shards)}
        self._copies[-1] = self.simulated.copy_store(), marks

    def roll_back(self) -> None:
        """The store and its log turn back together, or all of them; what was acknowledged since may be lost."""
        for number in sorted(self._copies):
            self.roll_back_one(number)

    def roll_back_one(self, number: int) -> None:
        """The store alone (-1) or a log alone turns back; what was acknowledged since in the log may be lost."""
        if number not in self._copies:
            return
        copied, marks = self._copies[number]
        self.disturbed()
        if number < 0:
            self._forget_leases()
            self.simulated.roll_back_store(copied)
            return
        self.simulated.shards[number].roll_back(copied)
        for client, mark in itertools.zip_longest(self.clients, marks):
            if self.shard_of(client) == number:
                client.forgive(mark)

    def fence_of(self, client: Client) -> MemoryFence:
        """The fence of the log that has a client's environment."""
        fence = self.simulated.shards[self.shard_of(client)].fence
        assert isinstance(fence, MemoryFence)
        return fence

    def shard_of(self, client: Client) -> int:
        """Number of the log that has a client's environment."""
        return shard_of(slot_of(client.env_id), len(self.simulated.shards))

    def _forgive_not_held(self, clients: Sequence[Client]) -> None:
        """What no owner holds in memory is lost with what keeps it; while not all is calm, all of it may be."""
        if self.is_calm:
            self._fragile_until = self.loop.now + LEASE_S + TIMES.grace_s + 4.0
            for client in clients:
                is_held = self.owner_of(client).host.env_table.get(client.env_id) is not None
                # Its owner has the slot, but has not brought it back yet; or its end is written, which nobody states again.
                if not is_held or client.env_id in self.simulated.closed:
                    client.forgive(None)
        else:
            for client in clients:
                client.forgive(None)

    @property
    def is_calm(self) -> bool:
        """Whether all workers are well, and all slots have owners who know it, as the store does."""
        if self.loop.now < self._fragile_until or not all(
            worker.is_up
            and not any(wire.is_cut or any(wire.fates.values()) for wire in worker.wires)
            and not worker.peers.fates
            # Who drains claims nothing, not even what it holds.
            and worker.member.record.state == "ready"
            for worker in self.workers
        ):
            return False
        cluster: ClusterMap = at_once(self.simulated.store.read_map())
        return all(worker.table.generation == cluster.generation for worker in self.workers) and all(
            self._is_agreed(slot, cluster) for slot in range(NUM_SLOTS)
        )

    def _is_agreed(self, slot: int, cluster: ClusterMap) -> bool:
        """Whether one worker alone has a slot, and the store says the same: one that turned back may not."""
        owners = [worker for worker in self.workers if worker.table.owns(slot)]
        known = cluster.owner_of(slot)
        return (
            len(owners) == 1
            and known is not None
            and known.incarnation == owners[0].member.record.incarnation
        )

    def disturbed(self) -> None:
        """Something happens to a worker; in a store that was emptied just now, its environments may be lost by it."""
        if self.loop.now < self._fragile_until:
            self._forgive_all()

    def _forgive_all(self) -> None:
        for client in self.clients:
            client.forgive(None)

    # --- clients --------------------------------------------------------------------------------------------

    def create(self, slot: int, *, is_snapshot: bool = False, ttl_s: float = TTL_S) -> Client:
        """A client with an environment of its own, which it has asked for."""
        number = len(self.clients)
        env_id = f"{slot:03x}-{number:032x}"
        name = SNAPSHOT if is_snapshot else JOURNAL
        self.clients.append(Client(env_id, name, number, self.violations, ttl_s))
        return self.clients[-1]

    def ask(self, client: Client, worker: Worker, verb: str, seq: int = 0) -> None:
        """Send a client's call to a worker."""
        host, env_id = worker.host, client.env_id
        # Now: when the call begins, the client may know more.
        seed, action, next_seed = client.seed, client.action(seq), client.next_seed
        calls: Mapping[str, Any] = {
            "create": lambda: host.create(
                CreateRequest(client.env_name, seed, ttl_s=client.ttl_s, env_id=env_id)
            ),
            "step": lambda: host.step(env_id, action, seq),
            "reset": lambda: host.reset(env_id, next_seed),
            "close": lambda: host.close(env_id),
        }
        call = worker.spawn(worker.serve(env_id, calls[verb]))
        client.sent(verb, seq)
        asked = self._asked(client)
        client.calls.add((call, worker.process))

        def answered(done: asyncio.Task[Any]) -> None:
            client.calls.discard((call, worker.process))
            client.answered(verb, seq, asked, _outcome(done), self.loop.now)

        call.add_done_callback(answered, context=Context())

    def ask_batch(self, clients: list[Client], worker: Worker, form: Sequence[bool] = (True,)) -> None:
        """Send the next steps of several clients together.

        Args:
            clients: The clients.
            worker: Whom they ask; it sends each part to whoever owns it.
            form: For each of a client's steps, whether it says its number.
        """
        turns = list(enumerate(form))
        asks = [(client, client.confirmed + turn) for turn, _ in turns for client in clients]
        numbered = [says_number for _, says_number in turns for _ in clients]
        is_unnumbered = not all(form)
        call = worker.spawn(
            batch_calls.step(
                worker.batches,
                [client.env_id for client, _ in asks],
                [client.action(seq) for client, seq in asks],
                [seq if says else None for (_, seq), says in zip(asks, numbered, strict=True)],
            )
        )
        asked = [self._asked(client) for client, _ in asks]
        for client, seq in asks:
            client.sent("step", seq)
            client.calls.add((call, worker.process))
            if is_unnumbered:
                client.unnumbered_at = worker.process

        def answered(done: asyncio.Task[Any]) -> None:
            results = _outcome(done)
            for nth, (client, seq) in enumerate(asks):
                client.calls.discard((call, worker.process))
                if is_unnumbered:
                    client.unnumbered_at = None
                result = results if isinstance(results, BaseException) else results[nth]
                client.answered("step", seq, asked[nth], result, self.loop.now, is_unnumbered=is_unnumbered)

        call.add_done_callback(answered, context=Context())

    def _asked(self, client: Client) -> Asked:
        return Asked(client.epoch, client.losses, self.loop.now, client.confirmed)

    def owner_of(self, client: Client) -> Worker:
        """The one worker that owns the client's slot while all is calm."""
        return next(worker for worker in self.workers if worker.table.owns(slot_of(client.env_id)))

    def worker_for(self, client: Client) -> Worker:
        """Whom the client would be sent to: who says that the slot is its own, or anybody."""
        slot = slot_of(client.env_id)
        owners = [worker for worker in self.workers if worker.is_up and worker.table.owns(slot)]
        return (owners or self.workers)[0]

    def spoil(self, client: Client) -> None:
        """Let the journal say that the first step gave something else."""
        entries = self.simulated.kept[client.env_id].entries
        entries[0] = Entry.from_bytes(entries[0])._replace(digest=b"0" * 23).to_bytes()

    # --- what must hold -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise if somebody was told something wrong."""
        assert not self.violations, self.violations
        kept = self.simulated.kept
        for client in self.clients:
            journal = kept.get(client.env_id)
            if journal is not None and not client.is_void and client.env_name == JOURNAL:
                client.check_journal(journal.episode, journal.entries)
        assert not self.violations, self.violations

    def finish(self) -> None:
        """Heal everything; then every environment answers in bounded time, where its client left it."""
        self.heal()
        for worker in self.workers:
            worker.spawn(worker.member.undrain())
        if not self.workers:
            self.start()
        end = self.loop.now + HEALING_S
        waiting = list(self.clients)
        while waiting and self.loop.now < end:
            for client in waiting:
                if not client.is_busy:
                    verb = client.next_verb
                    if verb is not None:
                        self.ask(client, self.worker_for(client), verb, client.confirmed)
                        client.probed = client.confirmed
            self.run(0.25)
            waiting = [client for client in waiting if not client.is_settled]
        left = [(client.env_id, client.last_error) for client in waiting]
        assert not left, f"no answer for {HEALING_S:g} s: {left}"
        self.check()
        # What a store forgot that its worker remembers is written again, an end when the worker looks at everything. Who has not read
        # the map of a store that was emptied takes itself for the owner, whose writes the log refuses.
        swept = self.loop.now + SWEEP_S
        while self.loop.now < swept and not all(map(self._is_balanced, self.clients)):
            self.run(1.0)
        self._check_balance()

    def _is_balanced(self, client: Client) -> bool:
        if client.is_void or client.is_forgiven or not client.is_created:
            return True
        is_open, is_closed = client.env_id in self.simulated.kept, client.env_id in self.simulated.closed
        return is_open != is_closed == client.is_closed and len(self._owners_of(client)) <= 1

    def _owners_of(self, client: Client) -> list[Worker]:
        """The workers that hold its environment, and take themselves for the owner of its slot."""
        homes = [worker for worker in self.workers if worker.host.env_table.get(client.env_id) is not None]
        return [worker for worker in homes if worker.table.owns(slot_of(client.env_id))]

    def _check_balance(self) -> None:
        """Each environment that was created is open, closed, or lost with the store."""
        simulated = self.simulated
        for client in self.clients:
            if client.is_void or client.is_forgiven or not client.is_created:
                continue
            if client.may_be_idle(self.loop.now):
                continue
            is_open, is_closed = client.env_id in simulated.kept, client.env_id in simulated.closed
            assert is_open != is_closed, f"{client.env_id} is open and closed, or neither"
            assert is_closed == client.is_closed, f"{client.env_id}: closed {is_closed}"
            assert len(self._owners_of(client)) <= 1, f"{client.env_id} lives on several owners"

    def end(self) -> None:
        """Throw it away."""
        logging.getLogger(background.__name__).removeHandler(self._log)
        self.loop.set_exception_handler(lambda *_: None)
        self.loop.end()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.violations.append(f"{context.get('message')}: {context.get('exception')!r}")

    @staticmethod
    def fate(kind: str) -> Fate:
        """What to do to a message, by name."""
        return {
            "lose_request": Fate(loses_request=True),
            "lose_answer": Fate(loses_answer=True),
            "copy": Fate(copy_after_s=0.5),
            "late_copy": Fate(copy_after_s=4.0),
            "lose_answer_and_copy": Fate(loses_answer=True, copy_after_s=3.0),
            "slow": Fate(delay_s=0.6),
            "too_slow": Fate(delay_s=2.5),
        }[kind]


class _DefectLog(logging.Handler):
    """Counts the end of a task that runs as long as its process as a violation."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Note a violation."""
        self._world.violations.append(f"{record.getMessage()}: {record.exc_info}")


def settled(shards: int = 0) -> World:
    """Begin a world of two workers that have shared the slots; see :class:`World`."""
    world = World(shards)
    world.start()
    world.start()
    world.run(2.0)
    return world


def _outcome(done: asyncio.Task[Any]) -> Any:
    """The result of a call, or the error; one that is no answer is a defect."""
    if done.cancelled():
        return StoreUnavailableError("", "the worker ends")
    error = done.exception()
    if error is None:
        return done.result()
    return error
