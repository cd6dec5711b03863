"""The asynchronous client: creates environments on a server, one or thousands."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, urlencode

from verl_agent_env.client.async_env import AsyncEnv
from verl_agent_env.client.calls import InitializeItem, ResetResult, TaskLike, TaskName
from verl_agent_env.client.dispatch import Dispatch, Settings
from verl_agent_env.client.encoding import encode_actions, encode_value, seconds_of, seed_of, text_of
from verl_agent_env.client.transport import MAX_ANSWER_BYTES, Transport
from verl_agent_env.errors import EnvironmentNotFoundError, VerlAgentEnvError
from verl_agent_env.types import Action, StepResult
from verl_agent_env.wire.task_results import TaskStatistics

T = TypeVar("T")

_ENV_ID = re.compile("[A-Za-z0-9._~-]+")
_TASKS_AT_ONCE = 1000
"""Largest number of tasks that the server lists at once."""


class AsyncEnvClient:
    """A client of one server, or of the cluster behind one URL; belongs to the event loop in which it is used.

    It may be used in another event loop once the first one is closed. In a forked process it has connections and
    environments of its own and leaves those of the parent alone. Concurrent calls share requests; lost ones are sent again
    and still carried out exactly once. Closing the client closes the environments that it created.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        deadline_s: float = 120.0,
        close_deadline_s: float | None = None,
        micro_batching: bool = True,
        max_batch: int = 4096,
        linger_s: float = 0.0,
        max_delay_s: float = 0.05,
        max_connections: int = 64,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        direct: Literal["auto", "never"] = "auto",
        ca_file: str | None = None,
        client_cert: str | tuple[str, str] | None = None,
    ) -> None:
        """Create a client without a connection.

        Args:
            url: URL of the server, ``http://host:port`` or ``https://host:port``.
            token: Bearer token, if the server asks for one.
            timeout_s: Seconds that the server may be silent during one attempt.
            deadline_s: Seconds after which a call fails, attempts and pauses together.
            close_deadline_s: The same for closing; by default that of calls, and 10 at most.
            micro_batching: Let concurrent single calls share requests.
            max_batch: Largest number of calls in one request.
            linger_s: Seconds that a call waits for others to join it while no request is pending.
            max_delay_s: Seconds that a call waits for a pending request before it is sent beside it.
            max_connections: Largest number of open connections.
            max_answer_bytes: Largest answer that is read, in bytes, decompressed.
            direct: ``auto`` sends calls directly to the worker that owns the environment, if it can be reached.
            ca_file: CA certificates, PEM, that verify the server's; the system's if not given.
            client_cert: Client certificate, PEM: a file with certificate and key, or one file for each.

        Raises:
            ValueError: The URL is malformed, a number is out of its range, the token cannot be sent, or a file cannot be
                used.
        """
        settings = Settings(
            timeout_s=timeout_s,
            deadline_s=deadline_s,
            close_deadline_s=close_deadline_s,
            micro_batching=micro_batching,
            max_batch=max_batch,
            linger_s=linger_s,
            max_delay_s=max_delay_s,
            max_connections=max_connections,
            max_answer_bytes=max_answer_bytes,
            direct=direct,
        )
        self._transport = Transport(
            url, token, timeout_s, max_connections, max_answer_bytes, ca_file, client_cert
        )
        self._dispatch = Dispatch(self._transport, settings)
        files = {"ca_file": ca_file, "client_cert": client_cert}
        self._made_with: tuple[str, dict[str, Any]] = (url, {**asdict(settings), "token": token, **files})

    @property
    def run_id(self) -> str:
        """Run of the environments that are made without a run; a forked process has its own."""
        return self._dispatch.run_id

    @property
    def url(self) -> str:
        """URL of the server."""
        return self._transport.url

    # --- one environment ------------------------------------------------------------------------------------

    def make(
        self,
        env_name: str,
        *,
        seed: int | None = None,
        run_id: str | None = None,
        ttl_s: float | None = None,
        task: TaskLike | None = None,
        actions: Sequence[Action] = (),
        env_kwargs: Mapping[str, Any] | None = None,
        **more_kwargs: Any,
    ) -> AsyncEnv:
        """Describe an environment; ``async with`` or ``await`` creates it and begins its first episode.

        Args:
            env_name: Registered name, or a short one such as ``sokoban``.
            seed: Of the first episode.
            run_id: Run of the environment; the client's own if not given.
            ttl_s: Seconds without a call after which the server closes it.
            task: What the first episode is, in place of a seed: ``("train", 7)``, or a row of :meth:`tasks`.
            actions: Actions to carry out first, all of them or none, where an episode repeats itself; the environment's
                ``first_steps`` has their results.
            env_kwargs: Keyword arguments of the environment.
            **more_kwargs: More of them.

        Raises:
            ValueError: The task is none, or there is a seed as well.
            InvalidRequestError: The seed is no integer or out of its range, or names, arguments or actions cannot be expressed
                in JSON.
        """
        encoded = encode_value({**(env_kwargs or {}), **more_kwargs}, "env_kwargs")
        seed, named = seed_of(seed), None if task is None else TaskName.of(task, seed)
        played = encode_actions(actions)
        item = InitializeItem(
            text_of(env_name, "env_name"),
            seed,
            encoded,
            text_of(run_id or self.run_id, "run_id"),
            seconds_of(ttl_s, "ttl_s"),
            task=named,
            actions=played,
        )
        return AsyncEnv(self._dispatch, item)

    async def attach(self, env_id: str) -> AsyncEnv:
        """Return an existing environment, to continue its episode.

        Closing the client does not close the environment.

        Raises:
            EnvironmentNotFoundError, EnvironmentClosedError: There is no such environment.
        """
        if not isinstance(env_id, str) or not _ENV_ID.fullmatch(env_id):
            raise EnvironmentNotFoundError(str(env_id))
        env = AsyncEnv(self._dispatch, None, env_id)
        seq, seed = await env.position()
        return AsyncEnv(self._dispatch, None, env_id, seq, seed)

    def run(self, run_id: str | None = None) -> Run:
        """Return a run, whose environments are closed together at the end of its ``async with``."""
        return Run(self, run_id or f"run-{uuid.uuid4().hex}")

    # --- many environments ----------------------------------------------------------------------------------

    async def initialize_batch(self, envs: Iterable[AsyncEnv]) -> list[AsyncEnv | VerlAgentEnvError]:
        """Create the environments that :meth:`make` returned; each fails alone."""
        return await results_of(env.open(micro_batching=True) for env in envs)

    async def reset_batch(
        self,
        envs: Sequence[AsyncEnv],
        seeds: Sequence[int | None] | None = None,
        actions: Sequence[Sequence[Action]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> list[ResetResult | VerlAgentEnvError]:
        """Begin an episode in each environment; each fails alone.

        Args:
            envs: The environments.
            seeds: A seed for each; the next episode where there is none.
            actions: Actions for each to carry out first, with its seed; those that have some are sent as calls of their own.
            options: Options of all of them.
        """
        chosen = seeds if seeds is not None else [None] * len(envs)
        first = actions if actions is not None else [()] * len(envs)
        return await results_of(
            env.reset(seed=seed, options=options, actions=played, micro_batching=True)
            for env, seed, played in zip(envs, chosen, first, strict=True)
        )

    async def step_batch(
        self, envs: Sequence[AsyncEnv], actions: Sequence[Action]
    ) -> list[StepResult | VerlAgentEnvError]:
        """Carry out one action in each environment; each fails alone."""
        return await results_of(
            env.step(action, micro_batching=True) for env, action in zip(envs, actions, strict=True)
        )

    async def close_batch(self, envs: Iterable[AsyncEnv]) -> list[VerlAgentEnvError | None]:
        """Close each environment."""
        return await results_of(env.close(micro_batching=True) for env in envs)

    async def close_run(self, run_id: str) -> int:
        """Close all environments of a run, by any client; return how many there were."""
        return await self._dispatch.close_run(text_of(run_id, "run_id"))

    # --- the server -----------------------------------------------------------------------------------------

    async def catalogue(self) -> list[dict[str, Any]]:
        """Return all kinds of environments of the server: names, descriptions, JSON Schema of the arguments, tools."""
        return await self._dispatch.get("/api/environments", _rows("environments"))

    async def splits(self, env_name: str) -> list[dict[str, Any]]:
        """Return the splits of an environment's tasks: names, types and numbers of tasks.

        Raises:
            UnknownEnvNameError: There is no such environment.
        """
        return await self._dispatch.get(f"{_path_of(env_name)}/splits", _rows("splits"))

    async def tasks(
        self, env_name: str, split: str = "train", *, offset: int = 0, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return consecutive tasks of a split, each with its index, seed, keyword arguments and id.

        Args:
            env_name: Registered name, or a short one.
            split: The split.
            offset: Index of the first one.
            limit: Largest number of them; all that follow if not given.

        Raises:
            UnknownEnvNameError, UnknownSplitError: There is no such environment or split.
            ValueError: All tasks of a split of seeds without end were asked for.
        """
        if limit is None and any(
            known["infinite"] for known in await self.splits(env_name) if known["name"] == split
        ):
            raise ValueError(f"the split '{split}' of '{env_name}' has no end: give a limit")
        tasks: list[dict[str, Any]] = []
        position: int | None = offset
        while position is not None and (limit is None or len(tasks) < limit):
            left = _TASKS_AT_ONCE if limit is None else min(_TASKS_AT_ONCE, limit - len(tasks))
            query = urlencode({"split": text_of(split, "split"), "offset": position, "limit": left})
            page, position = await self._dispatch.get(
                f"{_path_of(env_name)}/tasks?{query}",
                lambda answer: (list(answer["tasks"]), answer["next_offset"]),
            )
            tasks += page
        return tasks

    async def task_results(self, run_id: str) -> list[TaskStatistics]:
        """Return how often each task of a run was tried and solved; see ``GET /api/runs/{run_id}/tasks``."""
        found: dict[str, TaskStatistics] = {}
        cursor: str | None = "0"
        while cursor is not None:
            path = f"/api/runs/{quote(text_of(run_id, 'run_id'), safe='')}/tasks?cursor={cursor}"
            page, cursor = await self._dispatch.get(path, _statistics)
            # Of a task on two pages the later one counts.
            found.update(page)
        return list(found.values())

    async def cluster(self) -> dict[str, Any]:
        """Return nodes and workers, with the number of slots of each."""
        return await self._dispatch.get("/api/cluster", dict)

    async def close(self) -> None:
        """Cancel pending calls, close the environments that the client created, and close all connections."""
        await self._dispatch.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the client's options: the copy has connections and environments of its own."""
        return _make_client, (type(self), *self._made_with)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _make_client(cls: type[AsyncEnvClient], url: str, options: dict[str, Any]) -> AsyncEnvClient:
    return cls(url, **options)


class Run:
    """A group of environments, such as those of one training job or one batch of rollouts."""

    def __init__(self, client: AsyncEnvClient, run_id: str) -> None:
        self.run_id = run_id
        """Name of the run on the server."""
        self._client = client

    def make(self, env_name: str, **arguments: Any) -> AsyncEnv:
        """Describe an environment in this run; the arguments are those of :meth:`AsyncEnvClient.make`."""
        return self._client.make(env_name, run_id=self.run_id, **arguments)

    async def close(self) -> int:
        """Close all environments of the run; return how many were still open."""
        return await self._client.close_run(self.run_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _path_of(env_name: str) -> str:
    """Return the path of an environment of the catalogue; a slash in its name stays as it is."""
    return f"/api/environments/{quote(text_of(env_name, 'env_name'))}"


def _rows(key: str) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    return lambda answer: list(answer[key])


def _statistics(answer: dict[str, Any]) -> tuple[dict[str, TaskStatistics], str | None]:
    """Read a page of tasks' results, and where the next one begins."""
    rows = [
        TaskStatistics(row["task"], row["tries"], row["successes"], row["mean_reward"] * row["tries"])
        for row in answer["tasks"]
    ]
    return {row.task: row for row in rows}, answer["next_cursor"]


async def results_of(calls: Iterable[Awaitable[T]]) -> list[T | VerlAgentEnvError]:
    """Return the result or the error of each call; raise any other exception."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    results: list[T | VerlAgentEnvError] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, VerlAgentEnvError):
            raise outcome
        results.append(outcome)
    return results
