"""The cluster agent of a worker: heartbeats, claims and hand-overs of slots, updates of the slot table."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from verl_agent_env import background
from verl_agent_env.cluster.leases import LocalLease, boot_time
from verl_agent_env.cluster.planner import Placement, RebalancePlan, RebalancePlanner
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import (
    ClusterMap,
    Formats,
    Store,
    WorkerRecord,
    WorkerState,
    was_interrupted,
)
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.errors import (
    GenerationChangedError,
    NameTakenError,
    SlotsDifferError,
    StoreUnavailableError,
    VerlAgentEnvError,
    WorkerNotAliveError,
)
from verl_agent_env.wire.suspicions import Suspicion

logger = logging.getLogger(__name__)

_HAND_OVER_AT_ONCE = 128
"""Slots with environments for one receiver, and"""
_HAND_OVER_IN_ALL = 512
"""for all of them, that are handed over in one call; and"""
_EMPTY_IN_ALL = 4096
"""slots without any: nobody waits for these, but the store is busy with them."""


class HostedEnvironments(Protocol):
    """The environments of this worker, as the agent needs them."""

    def count(self) -> int:
        """Count the live environments."""

    def slots_in_use(self) -> Collection[int]:
        """Return the slots with environments, including those being created."""

    def count_not_durable(self, slot: int) -> int:
        """Count the environments in a slot that are not durable: they would be lost if another worker took the slot."""

    async def prepare_hand_over(self, slots: Collection[int]) -> Collection[int]:
        """Wait for a bounded time until all pending writes of these slots are durable and no step in them calls the outside.

        Returns:
            The slots of which that is so.
        """

    def reads(self) -> Mapping[str, str]:
        """Return the kinds that are loaded so far, with the format of their states."""

    async def load_kinds(self, names: Collection[str]) -> None:
        """Load these kinds, as far as they are installed here."""

    def unreadable_slots(self) -> frozenset[int]:
        """Find the slots with environments that this worker cannot continue."""

    def formats_in(self, slots: Collection[int]) -> Mapping[int, Formats]:
        """Return the formats that a worker must read to own each slot; all known ones if its content is unknown."""

    def evict(self, slots: Collection[int], *, keep_not_durable: bool = False) -> int:
        """Remove the environments of slots that another worker owns, or owned meanwhile.

        Args:
            slots: The slots.
            keep_not_durable: Keep environments that exist only here.

        Returns:
            Number of environments that were removed.
        """

    def update_suspicions(self, told: Mapping[str, Suspicion]) -> None:
        """Replace the suspicions about calls, before slots are taken over."""


class ClusterAgent:
    """Keeps one worker alive in the store and its slot table in step with the map.

    Slots that the ring assigns to others are handed over. One with environments that exist only here is kept until it is
    empty, and gets no new environments.
    """

    def __init__(
        self,
        record: WorkerRecord,
        store: Store,
        table: SlotTable,
        lease: LocalLease,
        environments: HostedEnvironments,
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = boot_time,
        pool: Collection[str] = (),
        expected_nodes: int = 1,
    ) -> None:
        """Create an agent that has not joined the cluster yet.

        Args:
            record: The worker's description of itself.
            store: The store that all workers share.
            table: Slot table that the agent updates.
            lease: Lease that every confirmed heartbeat renews.
            environments: The worker's environments.
            timing: How long the lease is, and what follows from it.
            clock: Seconds, by which the planner decides.
            pool: Addresses of all workers of the node, its own included.
            expected_nodes: Number of nodes that are started together.
        """
        self.record = record
        self.table = table
        self._store = store
        self._lease = lease
        self._environments = environments
        self._timing = timing or Timing()
        self._clock = clock
        self._planner = RebalancePlanner(record.incarnation, self._timing, clock, table.num_slots)
        self._pool = frozenset(pool)
        self._expected_nodes = expected_nodes
        self.has_settled = False
        """True once all awaited workers have joined and every slot has been where the ring assigns it."""
        self._placement: Placement | None = None
        self._held: dict[int, tuple[str, str]] = {}
        """Generation and token under which this worker last owned each slot."""
        self._unwritten: dict[int, float] = {}
        """Time, on the event loop's clock, after which a slot whose writes failed may be handed over."""
        self._version: int | None = None
        self._read_at = float("-inf")
        """Time at which the map was read last, on the event loop's clock."""
        self._times_away = 0
        self._look_now = asyncio.Event()
        self._looked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._trouble = ""

    @property
    def cluster(self) -> ClusterMap | None:
        """The map that was read last."""
        return self._planner.cluster

    def start(self) -> None:
        """Join the cluster as soon as the store accepts the worker, and stay in it until :meth:`leave`."""
        self._tasks = [background.start("planner", self._live)]

    @property
    def unready_reason(self) -> str:
        """Reason why the worker takes no new work; empty if it does. Names no address, because anybody may read it."""
        if self.record.state != "ready":
            return "it is being drained"
        if self.has_settled:
            return ""
        if self._trouble:
            return f"its heartbeats fail ({self._trouble}); its log says more"
        awaited = self._planner.awaited(self._pool, self._expected_nodes)
        return f"it waits for {awaited or 'the cluster to stay as it is for a moment'}"

    @property
    def has_joined(self) -> bool:
        """True if the worker is, or was, part of the cluster."""
        return self.cluster is not None

    async def leave(self) -> None:
        """Leave the cluster: the name and the slots are free at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lease.expire()
        # The lease runs out anyway.
        with contextlib.suppress(StoreUnavailableError):
            await self._store.leave(self.record.incarnation)

    async def drain(self, timeout_s: float = 10.0) -> None:
        """Accept no new environments and hand over all slots, except those with environments that exist only here.

        Returns when they are handed over, when no other worker can take them, when the store does not answer, or after
        ``timeout_s``.
        """
        if not await self._set_state("draining"):
            return
        clock = asyncio.get_running_loop().time
        end = clock() + timeout_s
        while clock() < end:
            await self.refresh()
            left = [slot for slot in self.table.tokens if not self._environments.count_not_durable(slot)]
            if not left or not self._planner.has_other_takers:
                return
            await asyncio.sleep(self._timing.drain_poll_s)

    async def undrain(self) -> None:
        """Accept environments and slots again."""
        await self._set_state("ready")

    async def _set_state(self, state: WorkerState) -> bool:
        """Publish the worker's state; return False if the store did not take it."""
        self.record = dataclasses.replace(self.record, state=state)
        is_told = await self._try_to_beat()
        self._read_again()
        return is_told

    async def refresh(self, timeout_s: float = 1.0) -> None:
        """Read the map if it has changed; concurrent callers share one read."""
        looked = self._looked
        self._look_now.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await looked.wait()

    # --- heartbeats -----------------------------------------------------------------------------------------

    async def _live(self) -> None:
        while not await self._try_to_beat():  # noqa: ASYNC110 - nothing would set an event
            await asyncio.sleep(self._timing.retry_s)
        self._look_now.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(background.keep_running("heartbeats", self._beat_forever))
            tasks.create_task(background.keep_running("map", self._look_forever))

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(self._timing.heartbeat_s)
            await self._try_to_beat()

    async def _try_to_beat(self) -> bool:
        """Send a heartbeat; return True if it was accepted."""
        try:
            await self._beat()
        except StoreUnavailableError as away:
            self._note_trouble(away)
        except (NameTakenError, SlotsDifferError) as taken:
            self._lease.expire()
            self._note_trouble(taken)
        except WorkerNotAliveError:
            self._begin_anew()
        except Exception:
            # Without heartbeats the worker would be lost for good, and the cause may be transient.
            logger.exception("heartbeat failed for an unexpected reason; retrying")
        else:
            return True
        return False

    async def _beat(self) -> None:
        sent_at = self._lease.sending()
        environments = self._environments
        record = dataclasses.replace(self.record, live_envs=environments.count(), reads=environments.reads())
        beat = await self._store.heartbeat(record, self._timing.lease_s)
        if not self._lease.valid:
            # Its slots may have other owners by now: it acts for none of them until it has read the map.
            self._come_back()
        self._lease.renewed(sent_at)
        self._note_trouble(None)
        if beat.map_version != self._version:
            self._look_now.set()

    def _come_back(self) -> None:
        """Prepare for a lease after one that has expired, or for the first one."""
        self._times_away += 1
        self.table.release(range(self.table.num_slots))
        self._planner.lease_was_over()
        self._read_again()

    def _begin_anew(self) -> None:
        """Continue under another incarnation, after the store has ended the present one."""
        self._lease.expire()
        logger.warning("lease lost; rejoining under a new incarnation", extra={"worker": self.record.name})
        self.record = dataclasses.replace(self.record, incarnation=uuid.uuid4().hex)
        self._planner = RebalancePlanner(
            self.record.incarnation, self._timing, self._clock, self.table.num_slots
        )

    def _note_trouble(self, trouble: VerlAgentEnvError | None) -> None:
        """Log once that heartbeats fail, and once that they succeed again."""
        code = "" if trouble is None else trouble.code
        if trouble is not None and code != self._trouble:
            logger.warning("heartbeat failed: %s", trouble.detail)
        elif trouble is None and self._trouble:
            logger.info("heartbeats succeed again")
        self._trouble = code

    # --- the map --------------------------------------------------------------------------------------------

    async def _look_forever(self) -> None:
        while True:
            try:
                await self._look(has_changed=await self._wait_for_change())
            except StoreUnavailableError as away:
                self._note_trouble(away)
                await asyncio.sleep(self._timing.retry_s)
            except (WorkerNotAliveError, GenerationChangedError):
                # The next heartbeat joins again or finds the new generation.
                await asyncio.sleep(self._timing.retry_s)
            except Exception:
                logger.exception("reading the map failed for an unexpected reason; retrying")
                await asyncio.sleep(self._timing.poll_s)
            finally:
                self._looked.set()
                self._looked = asyncio.Event()

    async def _wait_for_change(self) -> bool:
        """Wait until the map changes, a caller asks for it, or time alone may change the plan.

        Returns:
            True if the map has changed.
        """
        clock = asyncio.get_running_loop().time
        # Before the pause, in which the moment that is waited for may pass.
        wait_s, poll_s = self._planner.wait_s(), self._timing.poll_s
        end = clock() + (poll_s if wait_s is None else min(wait_s, poll_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._read_at + self._timing.pause_s):
                await self._look_now.wait()
        timeout_s = max(0.0, end - clock())
        change = asyncio.ensure_future(self._store.wait_for_change(self._version or 0, timeout_s))
        asked = asyncio.ensure_future(self._look_now.wait())
        try:
            await asyncio.wait((change, asked), return_when=asyncio.FIRST_COMPLETED)
            self._look_now.clear()
            return self._version != (change.result() if change.done() else await self._store.map_version())
        finally:
            for waiting in (change, asked):
                waiting.cancel()
            await asyncio.gather(change, asked, return_exceptions=True)

    def _read_again(self) -> None:
        """Schedule a read of the map, changed or not."""
        self._version = None
        self._look_now.set()

    async def _look(self, *, has_changed: bool = True) -> None:
        """Read the map, carry out the plan that follows from it, and repeat while that changes the map."""
        known = None if has_changed else self._planner.cluster
        while True:
            cluster = known or await self._read()
            plan, placement = self._planner.plan(), self._planner.placement()
            if known is None or plan != RebalancePlan() or placement is not self._placement:
                # Time alone can change both.
                self._apply(cluster, placement)
            if not self.has_settled:
                self.has_settled = self._planner.has_settled(self._pool, self._expected_nodes)
            if not await self._carry_out(plan, cluster):
                return
            known = None

    async def _read(self) -> ClusterMap:
        """Read the map; read it again if the lease was renewed meanwhile after having expired."""
        while True:
            times_away = self._times_away
            self._read_at = asyncio.get_running_loop().time()
            cluster = await self._store.read_map(self._planner.cluster)
            known = self._planner.cluster
            if known is None or cluster.workers is not known.workers:
                # Environments of other workers may move here, but only if this worker has announced that it reads them.
                await self._environments.load_kinds(
                    {name for other in cluster.workers.values() for name in other.reads or ()}
                )
            if times_away == self._times_away:
                self._planner.observe(cluster)
                self._version = cluster.version
                return cluster

    async def _carry_out(self, plan: RebalancePlan, cluster: ClusterMap) -> bool:
        """Claim slots and hand slots over; return True if that has changed the map."""
        changed = False
        if plan.claim:
            claim, incarnation = plan.claim, self.record.incarnation
            changed = bool(await self._store.claim(incarnation, claim, generation=cluster.generation))
        moves = self._ready_to_go(self._moves(plan, cluster))
        slots = {slot for tokens in moves.values() for slot in tokens}
        if slots:
            # Before the hand-over: once the receiver owns a slot, this worker must not answer for its new
            # environments. Whether the hand-over succeeds or its answer is lost, the map shows the owners.
            self.table.release(slots)
            self._read_again()
            written = await self._environments.prepare_hand_over(slots)
            # Slots with failed writes are served here for a while before the next attempt.
            again_at = asyncio.get_running_loop().time() + self._timing.hand_over_again_s
            self._unwritten |= {slot: again_at for slot in slots if slot not in written}
            moves = {
                receiver: left
                for receiver, tokens in moves.items()
                if (left := {slot: token for slot, token in tokens.items() if slot in written})
            }
            if moves:
                changed |= bool(await self._store.hand_off(moves))
        return changed

    def _ready_to_go(self, moves: Mapping[str, Mapping[int, str]]) -> dict[str, dict[int, str]]:
        """Leave out slots that must stay for now; of those with environments, which wait until the next owner has them, all but a few."""
        now = asyncio.get_running_loop().time()
        self._unwritten = {slot: at for slot, at in self._unwritten.items() if at > now}
        in_use = frozenset(self._environments.slots_in_use())
        left, left_empty, ready = _HAND_OVER_IN_ALL, _EMPTY_IN_ALL, {}
        for receiver, tokens in moves.items():
            free = [
                slot
                for slot in tokens
                if slot not in self._unwritten and not self._environments.count_not_durable(slot)
            ]
            full = [slot for slot in free if slot in in_use][: min(left, _HAND_OVER_AT_ONCE)]
            empty = [slot for slot in free if slot not in in_use][:left_empty]
            left, left_empty = left - len(full), left_empty - len(empty)
            if full or empty:
                ready[receiver] = {slot: tokens[slot] for slot in (*full, *empty)}
        return ready

    def _moves(self, plan: RebalancePlan, cluster: ClusterMap) -> Mapping[str, Mapping[int, str]]:
        """Choose the receivers of slots: the planned ones, except where they cannot read the environments of a slot.

        Such a slot is kept, or goes to a worker that can read them, if there is one. A draining worker keeps nothing.

        Returns:
            Slots with their tokens by receiver, like :attr:`RebalancePlan.hand_off`.
        """
        unreadable_slots, known = self._environments.unreadable_slots(), frozenset(
            self._environments.reads().items()
        )
        if not unreadable_slots and all(cluster.workers[target].can_read(known) for target in plan.hand_off):
            return plan.hand_off
        tokens = cluster.tokens_of(self.record.incarnation)
        planned = {slot: target for target, slots in plan.hand_off.items() for slot in slots}
        moves: dict[str, dict[int, str]] = {}
        for slot, formats in self._environments.formats_in(
            tokens.keys() & (planned.keys() | unreadable_slots)
        ).items():
            target = planned.get(slot)
            if target is None or not cluster.workers[target].can_read(formats):
                reader = self._planner.reader_of(slot, formats)
                if self.record.state == "draining":
                    target = reader or target
                else:
                    target = None if formats <= known else reader
            if target is not None and target != self.record.incarnation:
                moves.setdefault(target, {})[slot] = tokens[slot]
        return moves

    def _apply(self, cluster: ClusterMap, placement: Placement) -> None:
        self._placement = placement
        mine = self._planner.tokens() if self.record.incarnation in cluster.workers else {}
        self._environments.update_suspicions(cluster.suspicions)
        self._forget_lost()
        self._forget_outdated(cluster.generation, mine)
        self.table.assign(
            self._planner.forward_to(),
            mine,
            for_new=placement.slots,
            generation=cluster.generation,
            tokens=mine,
            is_of_another=self._planner.is_of_another,
            version=cluster.version,
            foreign=self._planner.foreign(),
        )

    def _forget_lost(self) -> None:
        """Evict the environments of slots that other workers own."""
        slots = {*self._held, *self._environments.slots_in_use()}
        lost = frozenset(filter(self._planner.is_of_another, slots))
        for slot in lost:
            self._held.pop(slot, None)
        if lost:
            gone = self._environments.evict(lost)
            if gone:
                logger.info("environments moved to other workers", extra={"count": gone})

    def _forget_outdated(self, generation: str, tokens: Mapping[int, str]) -> None:
        """Evict the environments of slots that another worker has owned since this one last did.

        A slot that returns has another token. In an emptied store all tokens are new, and the environments in memory are
        the only copy: they stay, unless somebody else was there first and has handed the slot over.
        """
        outdated = set()
        for slot, token in tokens.items():
            present = generation, token
            if was_interrupted(self._held.get(slot, present), present):
                outdated.add(slot)
        if outdated:
            self._environments.evict(outdated, keep_not_durable=True)
        self._held.update((slot, (generation, token)) for slot, token in tokens.items())
