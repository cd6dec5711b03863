"""Finds tasks: reads them in lists, or looks for seeds whose layouts belong to a split."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from verl_agent_env.config import HostLimits
from verl_agent_env.engine.calls.lifecycle import CreateRequest
from verl_agent_env.engine.execution.budget import WHOLE_ROOM, Budget
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Executor, build
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.engine.execution.threads import CallTimeoutError, ForeignExitError
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.layouts import layout_hash, position_of
from verl_agent_env.envs.registry import Registry
from verl_agent_env.envs.tasks import (
    SAMPLED_SEEDS,
    Split,
    Task,
    TaskList,
    seed_splits,
    seed_task,
    seeds_of,
    share_for_tests,
    split_at,
)
from verl_agent_env.errors import (
    AtCapacityError,
    BatchTooCostlyError,
    EnvironmentFailedError,
    EnvironmentTimeoutError,
    InvalidEnvArgumentsError,
    TaskNotFoundError,
    UnknownSplitError,
    VerlAgentEnvError,
)

_MAX_SHOWN_SPLIT = 64
_PAGE_S = 2.0
"""A page of tasks that have to be looked for ends after so many seconds; it has at least one."""
_MAX_KNOWN = 65_536
"""Seeds of tasks, and"""
_MAX_KNOWN_SHARES = 1024
"""shares that are remembered."""
_KEY_BYTES = 16


class _TaskArguments(NamedTuple):
    """Kind and keyword arguments that tasks are asked for with."""

    kind: EnvKind
    env_kwargs: Mapping[str, Any]
    key: bytes
    """Digest that tells them from others: the arguments of one request may take megabytes."""
    budget: Budget | None = None
    """Of the batch that the tasks are for; ``None`` where they are for a single environment or a list."""


@dataclass(frozen=True)
class Page:
    """Some consecutive tasks of a split."""

    split: Split
    tasks: list[Task]
    next_offset: int | None
    """Where the next page begins; ``None`` after the last task."""


class TaskFinder:
    """Finds the tasks of all kinds; the same ones in every process.

    Layouts are looked at by having a kind's own code begin an episode, where and for as long as its calls may run.
    """

    def __init__(
        self,
        registry: Registry,
        kinds: KindLoader,
        executor: Executor,
        turn: Callable[[], Awaitable[None]],
        lists: Mapping[str, TaskList],
        limits: HostLimits,
    ) -> None:
        """Know no seeds yet.

        Args:
            registry: The environments.
            kinds: Loads them.
            executor: Runs their code.
            turn: Waits until others had their turn, between two layouts.
            lists: Tasks from files, by full names.
            limits: With ``max_batch_compute_s``.
        """
        self._registry = registry
        self._kinds = kinds
        self._executor = executor
        self._turn = turn
        self._lists = dict(lists)
        self._limits = limits
        self._shares: OrderedDict[bytes, float] = OrderedDict()
        self._seeds: OrderedDict[tuple[bytes, str, int], int] = OrderedDict()

    async def splits(self, env_name: str) -> list[Split]:
        """List the splits of an environment.

        Raises:
            UnknownEnvNameError: There is no such environment.
            EnvironmentFailedError, EnvironmentTimeoutError: Its code failed.
        """
        return await self._splits_of(await self._arguments(env_name, {}))

    async def page(self, env_name: str, split: str, offset: int, limit: int) -> Page:
        """Give consecutive tasks, as many as asked for, or as were found in two seconds.

        Raises:
            UnknownEnvNameError, UnknownSplitError: There is no such environment or split.
            EnvironmentFailedError, EnvironmentTimeoutError: Its code failed.
        """
        given = await self._arguments(env_name, {})
        found = await self._require_split(given, split)
        stop = min(found.num_tasks, offset + limit)
        tasks: list[Task] = []
        end = time.monotonic() + _PAGE_S
        position = offset
        while position < stop and (not tasks or time.monotonic() < end):
            tasks.append(await self._task_of(given, found, position))
            position += 1
        return Page(found, tasks, position if position < found.num_tasks else None)

    async def find(
        self, env_name: str, split: str, index: int, env_kwargs: Mapping[str, Any] | None = None
    ) -> Task:
        """Find one task, with the keyword arguments to play it with.

        Args:
            env_name: The environment.
            split: The split.
            index: Position in it.
            env_kwargs: Further arguments. Seeds are divided by the layouts that they give with them; of a listed task, its
                own arguments count before them.

        Raises:
            UnknownEnvNameError, UnknownSplitError, TaskNotFoundError: There is none.
            InvalidEnvArgumentsError: The arguments do not fit the environment.
            EnvironmentFailedError, EnvironmentTimeoutError: The environment's code failed.
        """
        return await self._find(await self._arguments(env_name, env_kwargs or {}), split, index)

    async def assign(
        self, requests: Sequence[CreateRequest], tasks: Sequence[tuple[str, int] | None]
    ) -> list[CreateRequest | VerlAgentEnvError]:
        """Give each request of a batch the seed and the arguments of its task; an error in place of one that has none.

        Looking for all of them computes for no longer than the environments of a batch may; others have their turns meanwhile.

        Args:
            requests: The requests.
            tasks: Split and index for each of them; ``None`` for one that keeps its seed.
        """
        budget = Budget(self._limits, WHOLE_ROOM)
        assigned: list[CreateRequest | VerlAgentEnvError] = []
        known: dict[tuple[str, int], _TaskArguments] = {}
        pace = self._executor.pace()
        for request, named in zip(requests, tasks, strict=True):
            await pace.keep()
            if named is None:
                assigned.append(request)
                continue
            # Requests with equal arguments share one object.
            same_for = request.env_name, id(request.env_kwargs)
            try:
                if same_for not in known:
                    known[same_for] = await self._arguments(request.env_name, request.env_kwargs, budget)
                task = await self._find(known[same_for], *named)
            except VerlAgentEnvError as error:
                assigned.append(error.as_result())
                continue
            # What they share is checked and sent once.
            same = task.env_kwargs == request.env_kwargs
            env_kwargs = request.env_kwargs if same else task.env_kwargs
            assigned.append(dataclasses.replace(request, seed=task.seed, env_kwargs=env_kwargs))
        return assigned

    async def _arguments(
        self, env_name: str, env_kwargs: Mapping[str, Any], budget: Budget | None = None
    ) -> _TaskArguments:
        await self._kinds.load((env_name,))
        try:
            kind = self._registry.kind(env_name)
        except ImportError as broken:
            raise EnvironmentFailedError("", type(broken).__name__) from None
        written = orjson.dumps([kind.name, env_kwargs], option=orjson.OPT_SORT_KEYS)
        key = hashlib.blake2b(written, digest_size=_KEY_BYTES).digest()
        return _TaskArguments(kind, env_kwargs, key, budget)

    async def _find(self, given: _TaskArguments, split: str, index: int) -> Task:
        found = await self._require_split(given, split)
        if not 0 <= index < found.num_tasks:
            raise TaskNotFoundError(given.kind.name, found.name, index, found.num_tasks)
        return await self._task_of(given, found, index)

    def _list_of(self, kind: EnvKind) -> TaskList | None:
        """Give the tasks that a kind lists one by one; ``None`` if they are seeds."""
        if kind.name not in self._lists:
            try:
                self._lists[kind.name] = TaskList.of(kind.task_lists())
            except ENV_FAULTS as fault:
                raise EnvironmentFailedError("", type(fault).__name__) from fault
        listed = self._lists[kind.name]
        return listed if len(listed) else None

    async def _splits_of(self, given: _TaskArguments) -> list[Split]:
        listed = self._list_of(given.kind)
        if listed is not None:
            return listed.splits()
        return seed_splits(await self._share(given))

    async def _require_split(self, given: _TaskArguments, name: str) -> Split:
        splits = await self._splits_of(given)
        for split in splits:
            if split.name == name:
                return split
        raise UnknownSplitError(given.kind.name, name[:_MAX_SHOWN_SPLIT], [split.name for split in splits])

    async def _task_of(self, given: _TaskArguments, split: Split, index: int) -> Task:
        listed = self._list_of(given.kind)
        if listed is not None:
            task = listed.task(split.name, index)
            return Task(task.split, index, task.seed, {**given.env_kwargs, **task.env_kwargs}, task.id)
        seed = await self._seed_of(given, split, index)
        return seed_task(split.name, index, seed, given.env_kwargs)

    # --- seeds ----------------------------------------------------------------------------------------------

    async def _seed_of(self, given: _TaskArguments, split: Split, index: int) -> int:
        share = await self._share(given)
        seeds = seeds_of(index)
        if not share:
            return seeds[0]
        key = (given.key, split.name, index)
        known = self._seeds.get(key)
        if known is not None:
            return known
        for seed in seeds:
            position = await self._position(given, seed)
            if position is not None and split_at(position, share) == split.name:
                _remember(self._seeds, key, seed, _MAX_KNOWN)
                return seed
        raise TaskNotFoundError(given.kind.name, split.name, index, split.num_tasks)

    async def _share(self, given: _TaskArguments) -> float:
        """Tell which share of a kind's layouts is for tests; 0 where they cannot be told apart."""
        known = self._shares.get(given.key)
        if known is not None:
            return known
        share: float | None = 0.0
        if given.kind.has_known_layouts:
            positions: list[float] = []
            share = None
            for seed in range(SAMPLED_SEEDS):
                position = await self._position(given, seed)
                # A seed for which there is no episode has the place of the one before.
                positions.append(position if position is not None else (positions or [1.0])[-1])
                share = share_for_tests(positions)
                if share is not None:
                    break
        _remember(self._shares, given.key, share or 0.0, _MAX_KNOWN_SHARES)
        return share or 0.0

    async def _position(self, given: _TaskArguments, seed: int) -> float | None:
        """Tell where the layout of a seed falls in [0, 1); ``None`` if there is no episode of this seed."""
        await self._turn()
        kind = given.kind
        try:
            arguments = kind.validate(given.env_kwargs)
            fitting = kind.fitting(arguments)
            if given.budget is not None and fitting.execution == "compute":
                given.budget.compute(kind.cost_ms(arguments))
            return await self._executor.run(fitting, lambda: _look(kind, arguments, seed))
        except (InvalidEnvArgumentsError, BatchTooCostlyError, AtCapacityError):
            raise
        except CallTimeoutError:
            raise EnvironmentTimeoutError("", self._executor.max_step_s) from None
        except ForeignExitError as fault:
            raise EnvironmentFailedError("", fault.name) from fault
        except ENV_FAULTS as fault:
            raise EnvironmentFailedError("", type(fault).__name__) from fault


def _look(kind: EnvKind, arguments: Any, seed: int) -> float | None:
    env = build(kind, arguments)
    try:
        observation, _ = env.reset(seed=seed)
    except InvalidEnvArgumentsError:
        return None
    else:
        return position_of(layout_hash(env, observation))
    finally:
        env.close()


def _remember(known: OrderedDict[Any, Any], key: Any, value: Any, size: int) -> None:
    known[key] = value
    if len(known) > size:
        known.popitem(last=False)
