"""Calls on many environments: in order, inline ones at once, the others side by side, each failing alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, NamedTuple, Protocol, TypeVar

from verl_agent_env.engine.calls.calls import Calls
from verl_agent_env.engine.calls.lifecycle import CheckedKind, CreateRequest
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.execution.budget import WHOLE_ROOM, AnswerRoom, Budget
from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.group_commit.pending import AwaitableOrValue, PendingAnswer, await_maybe
from verl_agent_env.engine.host.host import Host
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    InternalError,
    MovedError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.spans import note_wait
from verl_agent_env.turns import Caller, Tenant, current_caller, current_tenant, tenant_of
from verl_agent_env.types import slot_of
from verl_agent_env.wire.codec import encode
from verl_agent_env.wire.large_bodies import UnreadJson, read_item, require_size
from verl_agent_env.wire.results import Created, EncodedStep, size_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

TOGETHER = 64
"""The least number of environments with brief steps that one of many workers gets of a batch."""
_MAX_SIDE_BY_SIDE = 1024
"""Calls of one batch that are under way at once, where they do not run inline."""


@dataclass(frozen=True, slots=True)
class BatchItems:
    """Items of a batch as columns of one length; what is None is so for each item."""

    env_ids: Sequence[str]
    """The environment of each; empty where one is made that has no id yet."""
    wanted: Sequence[Any] | None = None
    """What is asked for: an action, a seed, or the :class:`~verl_agent_env.engine.calls.lifecycle.CreateRequest`."""
    details: Sequence[Any] | None = None
    """What else there is to say: the ``seq`` of a step, the options of a reset."""
    operations: Sequence[bytes] | None = None
    """Ids of the calls, the same when they are sent again."""

    def __len__(self) -> int:
        return len(self.env_ids)

    def at(self, positions: Sequence[int]) -> BatchItems:
        """The items at these positions, which rise."""
        if len(positions) == len(self.env_ids):
            return self
        return BatchItems(
            _those_of(self.env_ids, positions),
            self.wanted and _those_of(self.wanted, positions),
            self.details and _those_of(self.details, positions),
            self.operations and _those_of(self.operations, positions),
        )

    def arguments(self) -> Iterable[tuple[str, Any, Any, bytes]]:
        """Arguments of the call of each item: always as many, which is passed on fastest.

        Raises:
            ValueError: While it is read: the columns differ in length.
        """
        size = len(self.env_ids)
        return zip(
            self.env_ids,
            itertools.repeat(None, size) if self.wanted is None else self.wanted,
            itertools.repeat(None, size) if self.details is None else self.details,
            itertools.repeat(b"", size) if self.operations is None else self.operations,
            strict=True,
        )


def _those_of(column: Sequence[T], positions: Iterable[int]) -> list[T]:
    return list(map(column.__getitem__, positions))


Call = Callable[[str, Any, Any, bytes], AwaitableOrValue[T]]
"""Carries out one item, given its id, ``wanted``, ``detail`` and ``operation``."""

_Offloaded = dict[str, deque[tuple[int, Coroutine[Any, Any, Any]]]]
"""Position and call of each item that has to wait and is not begun, by its environment; by its position if that has no id yet."""

OnHost = Callable[[Host, BatchItems, Budget], Awaitable[Call[T]]]
"""Makes the call that carries out each item of one batch."""


class HostVerb(Protocol[T_co]):
    """A verb, as far as a host has to know it."""

    @property
    def on_host(self) -> OnHost[T_co]:
        """Makes the call that carries out each item of one batch."""


class Closed(NamedTuple):
    """Results of closing a run."""

    closed: int
    """How many environments are closed now."""
    errors: list[tuple[int, VerlAgentEnvError]]
    """The positions that failed."""


class RunClosed(NamedTuple):
    """Results of closing a run on one worker."""

    closed: int
    """How many environments were closed."""
    slots: Collection[int]
    """Slots in which there certainly are none of the run any more."""


class Batches:
    """The batch calls on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.turn = host.slices.turn
        """Waits for the turn of a batch that keeps the event loop for long."""

    async def run(
        self, verb: HostVerb[T], items: BatchItems, room: AnswerRoom = WHOLE_ROOM
    ) -> list[T | VerlAgentEnvError]:
        """Carry out a verb for each item.

        An environment that is in the batch several times takes its items in their order.

        Args:
            verb: What to do.
            items: For what, and how.
            room: Of the answers.

        Returns:
            Results in order, an error in place of what failed.
        """
        return await _for_each(self._host, verb.on_host, items, room)

    def least_share(self, requests: Sequence[CreateRequest]) -> int:
        """Give the least number of these new environments that one of many workers gets, by their kinds, once these are loaded.

        Steps that compute, or wait, do so on many workers at once; brief ones are together rather: the cost of a part of a batch
        is paid by the steps in it.
        """
        return TOGETHER if all(map(self._host.runs_inline, {r.env_name for r in requests})) else 1

    async def close_run(self, run_id: str, tag: str | None = None) -> Closed:
        """Close all environments of a run that are here; with a ``tag``, those of its holder."""
        return await self._close(self._host.env_table.of_run(run_id, tag))

    async def close_run_of_slots(self, run_id: str, tag: str | None = None) -> RunClosed:
        """Close all environments of a run in this worker's slots, those that came to it just now included.

        Args:
            run_id: The run.
            tag: Of the holder whose environments alone are meant; of all holders if not given.

        Raises:
            StoreUnavailableError: It cannot be read which there are.
        """
        host = self._host
        before = host.owned_slots()
        await host.recoveries.ensure_all()
        env_ids = [env_id for env_id in host.env_table.of_run(run_id, tag) if slot_of(env_id) in before]
        done = await self._close(env_ids)
        failed = {slot_of(env_ids[position]) for position, _ in done.errors}
        after = host.owned_slots()
        # What came here, or went away, meanwhile is closed by its owner of then.
        slots = {slot for slot, token in before.items() if after.get(slot) == token and slot not in failed}
        return RunClosed(done.closed, slots)

    async def _close(self, env_ids: Sequence[str]) -> Closed:
        results = await _for_each(self._host, close_each, BatchItems(env_ids), WHOLE_ROOM)
        errors = [(position, error) for position, error in enumerate(results) if error is not None]
        return Closed(len(results) - len(errors), errors)


# --- what the verbs do on a host ------------------------------------------------------------------------------


def each(call_of: Callable[[Calls], Call[T]]) -> OnHost[T]:
    """Make a verb of the host of one of its calls."""

    async def on_host(host: Host, _: BatchItems, __: Budget) -> Call[T]:
        return call_of(host.calls)

    return on_host


async def create_each(host: Host, items: BatchItems, budget: Budget) -> Call[Created]:
    """Make the call that creates an environment for each request; what they compute at most is counted in the budget."""
    await host.kinds.load({request.env_name for request in items.wanted or ()})
    known: dict[tuple[str, int], CheckedKind | None] = {}

    def create(_: str, request: CreateRequest, *__: Any) -> AwaitableOrValue[Created]:
        # Neighbours share their arguments, as objects.
        key = request.env_name, id(request.env_kwargs)
        is_new = key not in known
        if is_new:
            # What cannot be made is refused below.
            with contextlib.suppress(VerlAgentEnvError):
                known[key] = host.calls.check(request)
        checked = known.setdefault(key, None)
        if checked is not None:
            budget.compute(checked.computing_ms)
        created = host.calls.create(request, checked)
        if is_new and isinstance(created, CoroutineType):
            budget.expect(_size_as_json(request.env_kwargs))
        return created

    return create


async def step_each(host: Host, items: BatchItems, _: Budget) -> Call[EncodedStep]:
    """Make the call that steps each environment; actions that are still JSON are read when it is their turn."""
    step = host.calls.step
    if not items.wanted or type(items.wanted[0]) is not UnreadJson:
        return step
    find, max_action_bytes = host.env_table.get, host.limits.max_action_bytes

    async def read_and_step(env_id: str, action: Any, seq: int | None, operation: bytes) -> EncodedStep:
        return await await_maybe(step(env_id, read_item(action), seq, operation))

    def step_unread(
        env_id: str, action: Any, seq: int | None, operation: bytes
    ) -> AwaitableOrValue[EncodedStep]:
        require_size(action, max_action_bytes)
        env = find(env_id)
        if env is not None and env.kind.execution != "inline":
            return read_and_step(env_id, action, seq, operation)
        return step(env_id, read_item(action), seq, operation)

    return step_unread


close_each: OnHost[None] = each(lambda calls: lambda env_id, *_: calls.close(env_id))
"""Closes each environment."""


class _Writes:
    """Writes of the items of a batch: each item is answered when its own writes are in the store."""

    def __init__(self, host: Host) -> None:
        self._recorder = host.recorder
        self.pending: dict[int, PendingAnswer[Any]] = {}
        """Answers that have to wait, by position."""

    async def settle(self) -> dict[int, VerlAgentEnvError]:
        """Wait for the writes; returns the errors that take the place of answers, by position."""
        if self._recorder is None or not self.pending:
            return {}
        waiting: dict[Group, list[tuple[int, str]]] = {}
        group: Group | None = None
        items: list[tuple[int, str]] = []
        for position, pending in self.pending.items():
            if pending.group is not group:
                # Seldom: neighbours wait for the same writes.
                group = pending.group
                items = waiting.setdefault(group, [])
            items.append((position, pending.env_id))
        refused: dict[int, VerlAgentEnvError] = {}
        began = time.perf_counter()
        settled = await self._recorder.journal.settle_all(waiting)
        note_wait("stored", began, "store")
        for position, refusal in settled.items():
            self.pending[position].refuse(refusal)
            if self.pending[position].refusal is not None:
                refused[position] = refusal
        return refused


class _Absent:
    """Environments of a batch that are not here, although they were looked for."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._unknown: Collection[str] = ()
        self.errors: dict[str, VerlAgentEnvError] = {}
        """Why nothing can be done with an environment, by id."""

    async def look_for(self, env_ids: Sequence[str]) -> None:
        """Bring back those that another worker held; if they cannot be read, all others go on without them."""
        host = self._host
        missing = host.recoveries.missing(env_ids)
        if not missing:
            return
        unread: StoreUnavailableError | None = None
        try:
            self._unknown = await host.recoveries.ensure(missing)
        except StoreUnavailableError as away:
            unread = away
        left = set(host.recoveries.missing(missing)).difference(self._unknown)
        self.errors = {env_id: unread or _moved(env_id) for env_id in left}

    def note(self, env_id: str, error: VerlAgentEnvError) -> None:
        """Do nothing more with an environment in this batch: what is asked for next must not come before what failed."""
        self.errors[env_id] = error

    def explained(self, error: VerlAgentEnvError, env_id: str) -> VerlAgentEnvError:
        """The error of an item: one that was here when the batch began, and is gone, has moved."""
        if isinstance(error, EnvironmentNotFoundError) and env_id not in self._unknown:
            return _moved(env_id) if self._host.recorder is not None else error
        return self._host.as_owner(error)


def _moved(env_id: str) -> VerlAgentEnvError:
    return MovedError(slot_of(env_id))


async def _for_each(
    host: Host, on_host: OnHost[T], items: BatchItems, room: AnswerRoom
) -> list[T | VerlAgentEnvError]:
    """Carry out each item in turn, and then those that have to wait side by side."""
    budget = Budget(host.limits, room)
    call = await on_host(host, items, budget)
    absent, writes = _Absent(host), _Writes(host)
    await absent.look_for(items.env_ids)
    current_tenant.set(_tenant_of(host, items))
    # Its items wait for each other, but not for those of others.
    current_caller.set(Caller())
    results: list[Any] = []
    offloaded: _Offloaded = {}
    find, clock, yield_after_s = host.env_table.get, time.perf_counter, host.limits.yield_after_s
    errors, pending, is_kept = absent.errors, writes.pending, host.recorder is not None
    slice_end = clock() + yield_after_s
    try:
        # Whatever is looked at here is looked at for each of ten thousand steps: nothing is called that need not be.
        for env_id, wanted, detail, operation in items.arguments():
            try:
                result: Any = errors.get(env_id) if errors else None
                if result is None:
                    if budget.spent > budget.granted:
                        budget.require()
                    result = call(env_id, wanted, detail, operation)
                    if result.__class__ is CoroutineType:
                        position = len(results)
                        offloaded.setdefault(env_id or str(position), deque()).append((position, result))
                        budget.expect(_last_size(find(env_id)))
                    else:
                        if is_kept and isinstance(result, PendingAnswer):
                            pending[len(results)] = result
                            result = result.answer
                        if result is not None:
                            budget.spent += len(result.observation) + len(result.info)
            except Exception as error:  # noqa: BLE001
                result = absent.explained(_as_answer(error), env_id)
                if isinstance(result, MovedError):
                    absent.note(env_id, result)
            results.append(result)
            if clock() > slice_end:
                # Let single requests, and other batches, go on while a large one is at work.
                await host.slices.turn()
                slice_end = clock() + yield_after_s
        if offloaded:
            await _run_side_by_side(host, offloaded, absent, budget, results)
    finally:
        for _, coroutine in itertools.chain(*offloaded.values()):
            coroutine.close()
    for position, refused in (await writes.settle()).items():
        results[position] = refused
    return results


def _tenant_of(host: Host, items: BatchItems) -> Tenant:
    """On whose behalf a batch is carried out: that of its first item."""
    request = items.wanted[0] if items.wanted else None
    if isinstance(request, CreateRequest):
        return Tenant(request.tag, request.run_id or "")
    env_id = items.env_ids[0] if items.env_ids else ""
    env = host.env_table.get(env_id)
    return tenant_of(env_id, None if env is None else env.run_id)


async def _run_side_by_side(
    host: Host, offloaded: _Offloaded, absent: _Absent, budget: Budget, results: list[Any]
) -> None:
    """Carry out calls side by side, those on one environment one after the other, and put what they give into ``results``.

    Where a call misses its environment, so do those behind it: it may be back by then, and is asked for the first one again.
    """
    pace = host.slices.pace(host.limits.yield_after_s)
    waiting = iter(offloaded.items())

    async def work() -> None:
        for env_id, calls in waiting:
            while calls:
                await pace.keep()
                position, call = calls.popleft()
                try:
                    if env_id in absent.errors:
                        raise absent.errors[env_id]
                    budget.begin()
                except VerlAgentEnvError as refused:
                    call.close()
                    results[position] = refused.as_result()
                    continue
                answer_bytes = 0
                try:
                    results[position] = await call
                    answer_bytes = size_of(results[position])
                except BaseException as error:  # noqa: BLE001
                    results[position] = explained = absent.explained(_as_answer(error), env_id)
                    if isinstance(explained, MovedError):
                        absent.note(env_id, explained)
                finally:
                    budget.end(answer_bytes)

    await asyncio.gather(*(work() for _ in range(min(len(offloaded), _MAX_SIDE_BY_SIDE))))


def _size_as_json(arguments: Mapping[str, Any]) -> int:
    """Bytes of keyword arguments; 0 where JSON cannot hold them, which whoever makes the environment is told."""
    try:
        return len(encode(arguments))
    except TypeError:
        return 0


def _last_size(instance: LiveEnv | None) -> int:
    """Bytes of what an environment answered last, as far as it is known."""
    last = None if instance is None else instance.last_answer or instance.beginning
    return 0 if last is None else size_of(last)


def _as_answer(error: BaseException) -> VerlAgentEnvError:
    """The error of one item; a defect of ours in one item leaves the others what they got."""
    if isinstance(error, VerlAgentEnvError):
        return error.as_result()
    if not isinstance(error, Exception):
        raise error
    logger.error("batch item failed with an internal error", exc_info=error)
    return InternalError()
