"""Everything that may happen to a simulated cluster, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests import depth
from tests.sim.episodes import Client
from tests.sim.world import NUM_SLOTS, SHORT_TTL_S, TTL_S, Worker, World

_AFTERWARDS = st.sampled_from([0, 1, 2, 3, 5, 8, 0.0015, 0.0025, 0.05, 0.05, 0.5, 1.5])
_PLACES = st.integers(0, 5)
_FORMS = st.sampled_from(["numbered", "unnumbered", "doubled"])
_TTLS = st.sampled_from([TTL_S, TTL_S, SHORT_TTL_S])
_FATES = st.sampled_from(
    ["lose_request", "lose_answer", "copy", "late_copy", "lose_answer_and_copy", "slow", "too_slow"]
)
_CALLS = st.sampled_from(["commit", "commit", "commit", "load", "heartbeat", "claim", "hand_off", "read_map"])
MAX_WORKERS, MAX_CLIENTS = 3, 4


def examples_of(count: int, **others: Any) -> settings:
    """How much to try: so many runs every day, and as many times more as ``--depth`` says."""
    is_shallow = depth.is_shallow()
    return settings(
        max_examples=depth.examples(count),
        # The same runs each time in the tests; others whenever more are asked for.
        derandomize=is_shallow,
        deadline=None,
        database=None,
        stateful_step_count=14,
        # A failure of the tests is printed as it was found; who asks for more has the time to make it smaller.
        phases=(Phase.generate,) if is_shallow else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        **others,
    )


class ClusterMachine(RuleBasedStateMachine):
    """Workers are killed, stopped and cut off; messages are late, lost and doubled; nothing is ever lost."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(slots=st.lists(st.integers(0, NUM_SLOTS - 1), min_size=1, max_size=2))
    def begin(self, slots: list[int]) -> None:
        """Two workers with their shares, and some environments."""
        self.world.start()
        self.world.start()
        self.world.run(1.1)
        for nth, slot in enumerate(slots):
            client = self.world.create(slot, is_snapshot=nth % 2 == 1, ttl_s=SHORT_TTL_S if nth else TTL_S)
            self.world.ask(client, self.world.worker_for(client), "create")
        self.world.run(0.01)

    # --- clients --------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.clients) < MAX_CLIENTS)
    @rule(slot=st.integers(0, NUM_SLOTS - 1), is_snapshot=st.booleans(), ttl_s=_TTLS, after=_AFTERWARDS)
    def create(self, slot: int, is_snapshot: bool, ttl_s: float, after: float) -> None:
        """Another environment."""
        client = self.world.create(slot, is_snapshot=is_snapshot, ttl_s=ttl_s)
        self.world.ask(client, self.world.worker_for(client), "create")
        self._pass(after)

    @rule(place=_PLACES, back=st.sampled_from([0, 0, 0, 0, 1, 2]), stray=_PLACES, after=_AFTERWARDS)
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

    @rule(place=_PLACES, number=st.integers(2, 4))
    def play(self, place: int, number: int) -> None:
        """Some steps in a row."""
        client = self._client(place)
        for _ in range(number):
            if client.can_step:
                self.world.ask(client, self.world.worker_for(client), "step", client.confirmed)
                self.world.run(0.01)

    @rule(place=_PLACES, after=_AFTERWARDS)
    def step_out_of_order(self, place: int, after: float) -> None:
        """The step after the next one comes first."""
        client = self._client(place)
        if client.can_step:
            worker = self.world.worker_for(client)
            self.world.ask(client, worker, "step", client.confirmed + 1)
            self.world.ask(client, worker, "step", client.confirmed)
        self._pass(after)

    @rule(place=_PLACES, form=_FORMS, after=_AFTERWARDS)
    def step_together(self, place: int, form: str, after: float) -> None:
        """A batch, at any worker, which splits it."""
        is_unnumbered = form == "unnumbered"
        clients = [c for c in self.world.clients if c.can_step and not (is_unnumbered and c.is_busy)]
        if clients:
            self.world.ask_batch(clients, self._worker(place), form)
        self._pass(after)

    @rule(place=_PLACES, kind=st.sampled_from(["lose_request", "lose_answer", "lose_answer", "slow"]))
    def disturb_peers(self, place: int, kind: str) -> None:
        """Something will happen to a worker's next call to another one."""
        self._worker(place).peers.fates.append(self.world.fate(kind))

    @rule(place=_PLACES, verb=st.sampled_from(["reset", "reset", "close"]), after=_AFTERWARDS)
    def reset_or_close(self, place: int, verb: str, after: float) -> None:
        """Another episode, or none any more; nobody does that while steps are on their way."""
        client = self._client(place)
        if client.can_step and not client.is_busy:
            self.world.ask(client, self.world.worker_for(client), verb)
        self._pass(after)

    # --- workers --------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.workers) > 1)
    @rule(place=_PLACES, is_reported=st.booleans(), after=_AFTERWARDS)
    def kill(self, place: int, is_reported: bool, after: float) -> None:
        """A process ends at once."""
        self.world.kill(self._worker(place), is_reported=is_reported)
        self._pass(after)

    @precondition(lambda self: len(self.world.workers) < MAX_WORKERS)
    @rule(is_upgraded=st.booleans(), after=_AFTERWARDS)
    def start(self, is_upgraded: bool, after: float) -> None:
        """Another worker, of this version or the next."""
        self.world.start(is_upgraded=is_upgraded)
        self._pass(after)

    @precondition(lambda self: len(self.world.workers) > 1)
    @rule(place=_PLACES, is_graceful=st.booleans(), after=_AFTERWARDS)
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

    @rule(place=_PLACES, after=_AFTERWARDS)
    def pause(self, place: int, after: float) -> None:
        """A process is stopped."""
        self.world.pause(self._worker(place))
        self._pass(after)

    @rule(place=_PLACES, after=_AFTERWARDS)
    def partition(self, place: int, after: float) -> None:
        """A worker is cut off from the store."""
        self.world.partition(self._worker(place))
        self._pass(after)

    @rule(place=_PLACES, looks=st.integers(6, 20), is_stopped=st.booleans(), after=_AFTERWARDS)
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

    @rule(after=_AFTERWARDS)
    def heal(self, after: float) -> None:
        """All are woken and reconnected."""
        self.world.heal()
        self._pass(after)

    @precondition(lambda self: len(self.world.workers) > 1)
    @rule(place=_PLACES, after=_AFTERWARDS)
    def drain(self, place: int, after: float) -> None:
        """A worker gives its slots to others, and takes them again."""
        self.world.disturbed()
        worker = self._worker(place)
        is_ready = worker.member.record.state == "ready"
        worker.spawn(worker.member.drain(2.0) if is_ready else worker.member.undrain())
        self._pass(after)

    @rule(place=_PLACES, call=_CALLS, kind=_FATES)
    def disturb(self, place: int, call: str, kind: str) -> None:
        """Something will happen to a worker's next message of a kind."""
        self.world.disturbed()
        self._worker(place).wire.fates[call].append(self.world.fate(kind))

    @rule(seconds=st.sampled_from([0.002, 0.1, 0.7, 1.5, 2.5, 5.0]))
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

    @rule()
    def remember(self) -> None:
        """The store writes itself to a disk."""
        self.world.note_copy()

    @rule(after=_AFTERWARDS)
    def roll_back(self, after: float) -> None:
        """The store comes back as it was then."""
        self.world.roll_back()
        self._pass(after)

    @rule(after=_AFTERWARDS)
    def empty(self, after: float) -> None:
        """The store comes back with nothing."""
        self.world.empty()
        self._pass(after)
