"""One store for all, and one worker's way to it: slow, cut, or losing and doubling messages."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
from collections import ChainMap, Counter, defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.cluster.workers import unchanging
from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.store import ClusterMap
from verl_agent_env.engine.group_commit.packing import CallLimits, size_of
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire.records import Refusal, Write

TIMEOUT_S = 1.0
"""How long a worker waits for an answer of the store."""
_TRAVEL_S = 0.001
LIMITS = CallLimits(writes=4, entries=6, size=600)
"""What a call of the simulated log carries."""
_LOOK_S = 0.5
"""How often a worker looks for what nobody tells it."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one call."""

    delay_s: float = _TRAVEL_S
    loses_request: bool = False
    loses_answer: bool = False
    is_held_up: bool = False
    """The request arrives when :meth:`Wire.let_go` says so, and its answer never."""
    copy_after_s: float | None = None
    """A second copy of the request arrives so much later."""


_LOOKS = frozenset({"map_version", "read_map", "heartbeat", "generation", "claim", "hand_off"})
_MAX_LOOKS_PER_S = 100
"""Of one worker, of one kind: more than twice the most that a thousand runs needed."""


class _Call(NamedTuple):
    """A request on its way, and who awaits its answer."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: asyncio.Future[Any]
    deadline: float


class SimulatedShard:
    """A log, and what says who may write to it: the store, or a fence of its own."""

    def __init__(self, fence: MemoryStore | MemoryFence) -> None:
        self.fence = fence
        self.log = MemoryEventLog(fence)

    def clear(self) -> None:
        """Lose the log, and the fence if it is not the store."""
        self.log.clear()
        if isinstance(self.fence, MemoryFence):
            self.fence.clear()

    def present_tokens(self) -> Mapping[int, str]:
        """The token of each slot under which alone may be written."""
        if isinstance(self.fence, MemoryStore):
            return self.fence._tokens
        return {slot: installed.token for slot, installed in self.fence._installed.items()}

    def copy(self) -> dict[str, Any]:
        """Everything, for :meth:`roll_back`."""
        state: dict[str, Any] = {"_kept": self.log._kept, "_closed": self.log._closed}
        if isinstance(self.fence, MemoryFence):
            state |= {name: getattr(self.fence, name) for name in ("_generation", "_installed")}
        return copy.deepcopy(state)

    def roll_back(self, earlier: dict[str, Any]) -> None:
        """Be as at the time of a copy."""
        for name, value in copy.deepcopy(earlier).items():
            setattr(self.log if name in ("_kept", "_closed") else self.fence, name, value)


class SimulatedStore:
    """Membership and journals of all workers, which can be lost, or turn back in time."""

    def __init__(self, loop: VirtualLoop, shards: int, num_slots: int, call_limits: CallLimits) -> None:
        """Begin without data.

        Args:
            loop: Of the simulation.
            shards: How many logs there are that have fences of their own; without any, the store keeps the log.
            num_slots: Number of slots.
            call_limits: What a call of the log carries.
        """
        numbers = itertools.count(1)
        self.loop = loop
        self._call_limits = call_limits
        self.calls: Counter[str] = Counter()
        """Calls by name."""

        def new_id() -> str:
            return f"{next(numbers):032x}"

        self.store = MemoryStore(loop.time, new_id, num_slots)
        self.is_sharded = shards > 0
        fences: list[MemoryStore | MemoryFence] = [MemoryFence(new_id) for _ in range(shards)]
        self.shards = [SimulatedShard(fence) for fence in fences or [self.store]]
        self.writers: dict[tuple[str, int, str], str] = {}
        """Who has written under a token of a slot and generation."""
        self.violations: list[str] = []
        self._looks: Counter[tuple[str, str, int]] = Counter()

    def looked(self, sender: str, name: str) -> None:
        """See to it that a worker looks at the map, and changes it, now and then only, however many calls wait for it."""
        look = sender, name, int(self.loop.now)
        self._looks[look] += 1
        if self._looks[look] == _MAX_LOOKS_PER_S:
            self.violations.append(f"{sender} called {name} {_MAX_LOOKS_PER_S} times in a second")

    @property
    def kept(self) -> Mapping[str, Any]:
        """All that the logs have of environments, by id."""
        return ChainMap(*(shard.log._kept for shard in self.shards))

    @property
    def closed(self) -> Mapping[str, str]:
        """Why environments were closed, by id."""
        return ChainMap(*(shard.log._closed for shard in self.shards))

    def empty(self) -> None:
        """Lose everything."""
        self.store.clear()
        for shard in self.shards:
            shard.clear()

    def forget(self) -> None:
        """Lose what the logs have of environments, and nothing else."""
        for shard in self.shards:
            shard.log.clear()

    def copy_store(self) -> dict[str, Any]:
        """All that the store has but logs, for :meth:`roll_back_store`."""
        kept = ("_generation", "_version", "_leases", "_none_ends_before", "_ended", "_tokens", "_changes")
        return {name: copy.deepcopy(getattr(self.store, name)) for name in kept}

    def roll_back_store(self, earlier: dict[str, Any]) -> None:
        """Be as at the time of a copy, but for the logs."""
        vars(self.store).update(copy.deepcopy(earlier))
        # It took a moment: no version of then comes again, because versions follow the clock.
        self.loop.now += _TRAVEL_S

    def read_map(self, sender: str, known: ClusterMap | None = None) -> ClusterMap:
        """Give a worker the map, and see to it that what it makes of changes is what is there."""
        read: ClusterMap = at_once(self.store.read_map(known))
        if unchanging(read) != unchanging(at_once(self.store.read_map())):
            self.violations.append(f"{sender} made another map of changes than there is")
        return read

    def commit(
        self,
        shard: SimulatedShard,
        sender: str,
        generation: str,
        tokens: Mapping[int, str],
        writes: Sequence[Write],
    ) -> list[Refusal]:
        """Make writes, and see to it that only the owner does, and of no more than a call carries."""
        size = sum(map(size_of, writes[:-1]))
        if len(writes) > self._call_limits.writes or size > self._call_limits.size:
            self.violations.append(
                f"{sender} sent {len(writes)} writes of {size} bytes and one more in a call"
            )
        refusals: list[Refusal] = at_once(shard.log.commit(generation, tokens, writes))
        refused = {refusal.position for refusal in refusals}
        present = shard.present_tokens()
        for position, write in enumerate(writes):
            if position in refused:
                continue
            token = tokens[write.slot]
            if present.get(write.slot) != token:
                self.violations.append(f"{sender} wrote to {write.env_id} without owning its slot")
            writer = self.writers.setdefault((generation, write.slot, token), sender)
            if writer != sender:
                self.violations.append(f"{sender} and {writer} wrote under one token")
        return refusals


class Wire:
    """A worker's store, and the log that it keeps; or one of several logs with its fence."""

    where = "simulated"

    def __init__(self, simulated: SimulatedStore, sender: str, shard: int = -1) -> None:
        self.is_cut = False
        self.fates: dict[str, list[Fate]] = defaultdict(list)
        """Of the next calls, by name."""
        self._held_up: list[_Call] = []
        self._simulated = simulated
        self._sender = sender
        self._shard = simulated.shards[max(shard, 0)]
        self._store = simulated.store if shard < 0 else self._shard.fence

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def through(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, args, kwargs)

        return through

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        """As the store has it: told of a change, and looking now and then whether a lease has run out."""
        loop, store = self._simulated.loop, self._simulated.store
        end = loop.time() + timeout_s
        while True:
            if self.is_cut:
                await asyncio.sleep(TIMEOUT_S)
                raise StoreUnavailableError("", "no answer")
            found: int = at_once(store.map_version())
            now = loop.time()
            if found != version or now >= end:
                return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(now + _LOOK_S, end)):
                    await store._changed.wait()
            await asyncio.sleep(_TRAVEL_S)

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop = self._simulated.loop
        fates = self.fates[name]
        fate = fates.pop(0) if fates else Fate()
        call = _Call(name, args, kwargs, loop.create_future(), loop.time() + TIMEOUT_S)
        is_lost = self.is_cut or fate.loses_request or fate.is_held_up
        if fate.is_held_up:
            self._held_up.append(call)
        if is_lost or loop.time() + fate.delay_s > call.deadline:
            self._time_out(call)
        if not is_lost:
            loop.call_later(fate.delay_s, self._arrive, call, fate.loses_answer, context=Context())
        if fate.copy_after_s is not None:
            copied = call._replace(answer=loop.create_future())
            copied.answer.cancel()
            loop.call_later(fate.copy_after_s, self._arrive, copied, True, context=Context())
        return await call.answer

    def let_go(self) -> None:
        """Let requests arrive that were held up."""
        held_up, self._held_up = self._held_up, []
        for call in held_up:
            self._arrive(call, loses_answer=True)

    def _time_out(self, call: _Call) -> None:
        """Nothing will come: the sender hears so when it has waited long enough, running or not."""
        no_answer = StoreUnavailableError("", "no answer")
        self._simulated.loop.call_at(call.deadline, _settle, call.answer, None, no_answer, context=Context())

    def _arrive(self, call: _Call, loses_answer: bool) -> None:
        """The request is carried out; its answer arrives, unless it is lost or nobody waits any more."""
        simulated = self._simulated
        simulated.calls[call.name] += 1
        if call.name in _LOOKS:
            simulated.looked(self._sender, call.name)
        result: Any = None
        error: Exception | None = None
        try:
            if call.name == "commit":
                result = simulated.commit(self._shard, self._sender, *call.args, **call.kwargs)
            elif call.name == "read_map":
                result = simulated.read_map(self._sender, *call.args, **call.kwargs)
            else:
                target: object = self._shard.log if call.name in ("load", "env_ids") else self._store
                result = at_once(getattr(target, call.name)(*call.args, **call.kwargs))
        except Exception as raised:  # noqa: BLE001 - it goes to the caller
            error = raised
        if loses_answer or self.is_cut:
            self._time_out(call)
            return
        simulated.loop.call_later(_TRAVEL_S, _settle, call.answer, result, error, context=Context())


def _settle(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
        # Whoever asked may be dead.
        answer.exception()
    else:
        answer.set_result(result)


def at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    call.close()
    raise AssertionError("the store has waited for something")
