"""Calls on many environments: in order, inline ones at once, the others side by side, each failing alone."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import CoroutineType
from typing import Any, NamedTuple, TypeVar

from verl_agent_env.engine.budget import WHOLE_ROOM, AnswerRoom, Budget
from verl_agent_env.engine.host import Host
from verl_agent_env.engine.lifecycle import Created, CreateRequest
from verl_agent_env.engine.live_env import LiveEnv
from verl_agent_env.engine.persistence.groups import Group
from verl_agent_env.engine.persistence.pending import AwaitableOrValue, PendingAnswer, await_maybe
from verl_agent_env.engine.turns import Caller, current_caller
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    InternalError,
    MovedError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.spans import note_wait
from verl_agent_env.types import slot_of
from verl_agent_env.wire.codec import encode
from verl_agent_env.wire.large_bodies import UnreadJson, read_item, require_size
from verl_agent_env.wire.results import EncodedReset, EncodedStep, size_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

_Call = tuple[str, Any, Any, Any]
"""Arguments of a call on one environment, the first of which is its id: always as many, which is passed on fastest."""

_ITEMS_BETWEEN_YIELDS = 1024
_NONE_LEFT: tuple[int, _Call] = (-1, ("", None, None, None))
_MAX_SIDE_BY_SIDE = 1024
"""Calls of one batch that are under way at once, where they do not run inline."""


class Closed(NamedTuple):
    """Results of a batch of closings."""

    closed: int
    """How many are closed now."""
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

    async def create(
        self, requests: Sequence[CreateRequest], room: AnswerRoom = WHOLE_ROOM
    ) -> list[tuple[str, EncodedReset] | VerlAgentEnvError]:
        """Make an environment for each request; results in order, an error in place of what failed."""
        host = self._host
        env_ids = [request.env_id or "" for request in requests]
        await host.kinds.load({request.env_name for request in requests})
        budget = Budget(host.limits, room)
        costs: dict[tuple[str, int], float] = {}

        def create(_: str, request: CreateRequest, *__: None) -> AwaitableOrValue[Created]:
            # Neighbours share their arguments, as objects.
            key = request.env_name, id(request.env_kwargs)
            is_new = key not in costs
            if is_new:
                costs[key] = host.computing_ms(request)
            budget.compute(costs[key])
            created = host.calls.create(request)
            if is_new and isinstance(created, CoroutineType):
                budget.expect(_size_as_json(request.env_kwargs))
            return created

        def create_paid(_: str, request: CreateRequest, *__: None) -> AwaitableOrValue[Created]:
            return host.calls.create(request)

        calls = zip(env_ids, requests, itertools.repeat(None), itertools.repeat(None), strict=False)
        return await _for_each(host, env_ids, calls, create, budget, run_later=create_paid)

    async def reset(
        self,
        env_ids: Sequence[str],
        seeds: Sequence[int | None] | None,
        options: Sequence[dict[str, Any] | None] | None,
        operations: Sequence[bytes] | None = None,
        room: AnswerRoom = WHOLE_ROOM,
    ) -> list[EncodedReset | VerlAgentEnvError]:
        """Reset each environment; results in order, an error in place of what failed."""
        host = self._host
        ids = itertools.repeat(b"", len(env_ids)) if operations is None else operations
        calls = zip(env_ids, _column(seeds, env_ids), _column(options, env_ids), ids, strict=True)
        return await _for_each(host, env_ids, calls, host.calls.reset, Budget(host.limits, room))

    async def step(
        self,
        env_ids: Sequence[str],
        actions: Sequence[Any],
        seqs: Sequence[int | None] | None,
        operations: Sequence[bytes] | None = None,
        room: AnswerRoom = WHOLE_ROOM,
    ) -> list[EncodedStep | VerlAgentEnvError]:
        """Step each environment; results in order, an error in place of what failed.

        An environment that stands in ``env_ids`` several times takes its actions in their order.
        """
        host = self._host
        ids = itertools.repeat(b"", len(env_ids)) if operations is None else operations
        calls = zip(env_ids, actions, _column(seqs, env_ids), ids, strict=True)
        if actions and type(actions[0]) is UnreadJson:
            return await self._step_written(env_ids, calls, room)
        return await _for_each(host, env_ids, calls, host.calls.step, Budget(host.limits, room))

    async def _step_written(
        self, env_ids: Sequence[str], calls: Iterable[_Call], room: AnswerRoom
    ) -> list[EncodedStep | VerlAgentEnvError]:
        """Take steps as :meth:`step` does, with actions that are still JSON: each is read when it is its turn."""
        host = self._host

        def step(
            env_id: str, action: Any, seq: int | None, operation: bytes
        ) -> AwaitableOrValue[EncodedStep]:
            require_size(action, host.limits.max_action_bytes)
            return host.calls.step(env_id, read_item(action), seq, operation)

        return await _for_each(host, env_ids, calls, step, Budget(host.limits, room))

    async def close(self, env_ids: Sequence[str]) -> Closed:
        """Close each environment."""
        host = self._host
        absent, writes = _Absent(host), _Writes(host)
        await absent.look_for(env_ids)
        errors: dict[int, VerlAgentEnvError] = {}
        for position, env_id in enumerate(env_ids):
            error = absent.errors.get(env_id)
            if error is None:
                try:
                    pending = host.calls.close(env_id)
                    if pending is not None:
                        writes.note(position, pending)
                except VerlAgentEnvError as raised:
                    error = absent.explained(raised, env_id)
            if error is not None:
                errors[position] = error
            if position % _ITEMS_BETWEEN_YIELDS == 0:
                await host.slices.turn()
        errors |= await writes.settle()
        return Closed(len(env_ids) - len(errors), sorted(errors.items(), key=lambda item: item[0]))

    async def close_run(self, run_id: str, tag: str | None = None) -> Closed:
        """Close all environments of a run that are here; with a ``tag``, those of its holder."""
        return await self.close(self._host.env_table.of_run(run_id, tag))

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
        await host.ensure_all()
        env_ids = [env_id for env_id in host.env_table.of_run(run_id, tag) if slot_of(env_id) in before]
        done = await self.close(env_ids)
        failed = {slot_of(env_ids[position]) for position, _ in done.errors}
        after = host.owned_slots()
        # What came here, or went away, meanwhile is closed by its owner of then.
        slots = {slot for slot, token in before.items() if after.get(slot) == token and slot not in failed}
        return RunClosed(done.closed, slots)


class _Writes:
    """Writes of the items of a batch: each item is answered when its own writes are in the store."""

    def __init__(self, host: Host) -> None:
        self._recorder = host.recorder
        self._pending: dict[int, PendingAnswer[Any]] = {}
        """Answers that have to wait, by position."""

    def note(self, position: int, pending: PendingAnswer[Any]) -> None:
        """Have the answer at ``position`` wait for its writes."""
        self._pending[position] = pending

    async def settle(self) -> dict[int, VerlAgentEnvError]:
        """Wait for the writes; returns the errors that take the place of answers, by position."""
        if self._recorder is None or not self._pending:
            return {}
        waiting: dict[Group, list[tuple[int, str]]] = {}
        for position, pending in self._pending.items():
            waiting.setdefault(pending.group, []).append((position, pending.env_id))
        refused: dict[int, VerlAgentEnvError] = {}
        began = time.perf_counter()
        settled = await self._recorder.journal.settle_all(waiting)
        note_wait("stored", began, "store")
        for position, refusal in settled.items():
            self._pending[position].refuse(refusal)
            if self._pending[position].refusal is not None:
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
        missing = host.missing(env_ids)
        if not missing:
            return
        unread: StoreUnavailableError | None = None
        try:
            self._unknown = await host.ensure(missing)
        except StoreUnavailableError as away:
            unread = away
        left = set(host.missing(missing)).difference(self._unknown)
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
    host: Host,
    env_ids: Sequence[str],
    calls: Iterable[_Call],
    run: Callable[..., AwaitableOrValue[T]],
    budget: Budget,
    run_later: Callable[..., AwaitableOrValue[T]] | None = None,
) -> list[T | VerlAgentEnvError]:
    """Call ``run`` with the arguments of each call in turn, and then side by side with those that have to wait.

    Args:
        host: Whose environments they are.
        env_ids: The environments; empty where the result of a call names it first.
        calls: The call on each.
        run: Carries out the call.
        budget: What the whole batch may cost; for items beyond it nothing is done.
        run_later: Carries out a call that has to wait, for which ``run`` was asked before; ``run`` where not given.
    """
    absent, writes = _Absent(host), _Writes(host)
    await absent.look_for(env_ids)
    # Its items wait for each other, but not for those of others.
    current_caller.set(Caller())
    results: list[Any] = []
    offloaded: list[tuple[int, _Call]] = []
    find, clock, yield_after_s = host.env_table.get, time.perf_counter, host.limits.yield_after_s
    errors, is_kept = absent.errors, host.recorder is not None
    slice_end = clock() + yield_after_s
    # Whatever is looked at here is looked at for each of ten thousand steps: nothing is called that need not be.
    for env_id, wanted, detail, operation in calls:
        try:
            result: Any = errors.get(env_id) if errors else None
            if result is None:
                if budget.spent > budget.granted:
                    budget.require()
                result = run(env_id, wanted, detail, operation)
                if isinstance(result, CoroutineType):
                    # Begun when it is its turn: until then it would keep what it was called with.
                    result.close()
                    offloaded.append((len(results), (env_id, wanted, detail, operation)))
                    budget.expect(_last_size(find(env_id)))
                else:
                    if is_kept and isinstance(result, PendingAnswer):
                        writes.note(len(results), result)
                        result = result.answer
                    answer = result[1] if type(result) is tuple else result
                    budget.spent += len(answer.observation) + len(answer.info)
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
        await _run_side_by_side(host, offloaded, run_later or run, absent, budget, results)
    for position, refused in (await writes.settle()).items():
        results[position] = refused
    return results


async def _run_side_by_side(
    host: Host,
    calls: Sequence[tuple[int, _Call]],
    run: Callable[..., AwaitableOrValue[Any]],
    absent: _Absent,
    budget: Budget,
    results: list[Any],
) -> None:
    """Carry out calls side by side, begun in their order, and put what they give into ``results``."""
    left = iter(calls)
    clock, yield_after_s = time.perf_counter, host.limits.yield_after_s
    slice_end = clock() + yield_after_s

    async def work() -> None:
        nonlocal slice_end
        while True:
            if clock() > slice_end:
                # Before it takes the next one: calls on one environment begin in the order of the batch.
                await host.slices.turn()
                slice_end = clock() + yield_after_s
            position, arguments = next(left, _NONE_LEFT)
            if position < 0:
                return
            try:
                budget.begin()
            except VerlAgentEnvError as refused:
                results[position] = refused
                continue
            answer_bytes = 0
            try:
                results[position] = await await_maybe(run(*arguments))
                answer_bytes = size_of(results[position])
            except BaseException as error:  # noqa: BLE001
                results[position] = absent.explained(_as_answer(error), arguments[0])
            finally:
                budget.end(answer_bytes)

    await asyncio.gather(*(work() for _ in range(min(len(calls), _MAX_SIDE_BY_SIDE))))


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
        return error
    if not isinstance(error, Exception):
        raise error
    logger.error("batch item failed", exc_info=error)
    return InternalError()


def _column(values: Sequence[T] | None, env_ids: Sequence[str]) -> Iterable[T | None]:
    return itertools.repeat(None, len(env_ids)) if values is None else values
