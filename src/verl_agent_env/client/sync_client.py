"""The blocking client: an event loop in a thread of its own does the work."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from verl_agent_env.client.async_client import AsyncEnvClient
from verl_agent_env.client.async_env import AsyncEnv
from verl_agent_env.client.calls import ResetResult, TaskLike
from verl_agent_env.client.errors import ClientClosedError, ClientLoopError
from verl_agent_env.client.playing import ChatFunction, PlayedEpisode, play
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.types import Action, StepResult
from verl_agent_env.wire.task_results import TaskStatistics

T = TypeVar("T")


_ALL: weakref.WeakSet[EnvClient] = weakref.WeakSet()
_ABANDONED: list[asyncio.AbstractEventLoop] = []
"""Event loops of a forked process' parent: closing one here would break the parent's."""


class EnvClient:
    """A blocking :class:`AsyncEnvClient`; safe to use from several threads, and after a fork.

    Calls of several threads share requests like those of several coroutines.
    """

    def __init__(self, url: str, **options: Any) -> None:
        """Create a client without a connection; the arguments are those of :class:`AsyncEnvClient`.

        Raises:
            ValueError: The URL is malformed, or an option is out of its range.
        """
        self._client = AsyncEnvClient(url, **options)
        self._made_with = (url, options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ender: weakref.finalize[[AsyncEnvClient, asyncio.AbstractEventLoop], EnvClient] | None = None
        """Closes the client if nobody refers to it any more."""
        self._closed = False
        _ALL.add(self)

    @property
    def url(self) -> str:
        """URL of the server."""
        return self._client.url

    @property
    def run_id(self) -> str:
        """Run of the environments that are made without a run."""
        return self._client.run_id

    @property
    def remote(self) -> AsyncEnvClient:
        """The client in this one's event loop: for coroutines that :meth:`wait` runs."""
        return self._client

    # --- environments ---------------------------------------------------------------------------------------

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
    ) -> Env:
        """Create an environment and begin its first episode; the arguments are those of :meth:`AsyncEnvClient.make`.

        Raises:
            VerlAgentEnvError: The environment could not be created.
        """
        arguments = {**(env_kwargs or {}), **more_kwargs}
        made = self._client.make(
            env_name,
            seed=seed,
            run_id=run_id,
            ttl_s=ttl_s,
            task=task,
            actions=actions,
            env_kwargs=arguments,
        )
        return Env(self, self.wait(made.open()))

    def make_many(
        self,
        env_name: str,
        seeds: Sequence[int | None] = (),
        *,
        run_id: str | None = None,
        ttl_s: float | None = None,
        tasks: Sequence[TaskLike] = (),
        actions: Sequence[Sequence[Action]] | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Env | VerlAgentEnvError]:
        """Create an environment for each seed, then one for each task, in as few requests as possible; each fails alone.

        ``actions`` are those that each of them carries out first; one that has some is created by a call of its own.
        """
        episodes = [*((seed, None) for seed in seeds), *((None, task) for task in tasks)]
        first = actions if actions is not None else [()] * len(episodes)
        described: list[AsyncEnv | VerlAgentEnvError] = []
        for (seed, task), played in zip(episodes, first, strict=True):
            try:
                env = self._client.make(
                    env_name,
                    seed=seed,
                    task=task,
                    run_id=run_id,
                    ttl_s=ttl_s,
                    actions=played,
                    env_kwargs=env_kwargs,
                )
            except VerlAgentEnvError as refused:
                described.append(refused)
            else:
                described.append(env)
        made = iter(
            self.wait(self._client.initialize_batch([env for env in described if isinstance(env, AsyncEnv)]))
        )
        opened = [next(made) if isinstance(env, AsyncEnv) else env for env in described]
        return [Env(self, env) if isinstance(env, AsyncEnv) else env for env in opened]

    def attach(self, env_id: str) -> Env:
        """Call :meth:`AsyncEnvClient.attach` and wait."""
        return Env(self, self.wait(self._client.attach(env_id)))

    def reset_batch(
        self,
        envs: Iterable[Env],
        seeds: Sequence[int | None] | None = None,
        actions: Sequence[Sequence[Action]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> list[ResetResult | VerlAgentEnvError]:
        """Call :meth:`AsyncEnvClient.reset_batch` and wait."""
        return self.wait(self._client.reset_batch([env.remote for env in envs], seeds, actions, options))

    def step_batch(
        self, envs: Iterable[Env], actions: Sequence[Action]
    ) -> list[StepResult | VerlAgentEnvError]:
        """Call :meth:`AsyncEnvClient.step_batch` and wait."""
        return self.wait(self._client.step_batch([env.remote for env in envs], actions))

    def close_batch(self, envs: Iterable[Env]) -> list[VerlAgentEnvError | None]:
        """Call :meth:`AsyncEnvClient.close_batch` and wait."""
        return self.wait(self._client.close_batch([env.remote for env in envs]))

    def run(self, run_id: str | None = None) -> SyncRun:
        """Call :meth:`AsyncEnvClient.run` and wait."""
        return SyncRun(self, self._client.run(run_id).run_id)

    def close_run(self, run_id: str) -> int:
        """Call :meth:`AsyncEnvClient.close_run` and wait."""
        return self.wait(self._client.close_run(run_id))

    def play(self, llm: ChatFunction, env_name: str, **arguments: Any) -> PlayedEpisode:
        """Call :func:`verl_agent_env.client.play` and wait."""
        return self.wait(play(self._client, llm, env_name, **arguments))

    # --- the server -----------------------------------------------------------------------------------------

    def catalogue(self) -> list[dict[str, Any]]:
        """Call :meth:`AsyncEnvClient.catalogue` and wait."""
        return self.wait(self._client.catalogue())

    def splits(self, env_name: str) -> list[dict[str, Any]]:
        """Call :meth:`AsyncEnvClient.splits` and wait."""
        return self.wait(self._client.splits(env_name))

    def tasks(
        self, env_name: str, split: str = "train", *, offset: int = 0, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Call :meth:`AsyncEnvClient.tasks` and wait."""
        return self.wait(self._client.tasks(env_name, split, offset=offset, limit=limit))

    def task_results(self, run_id: str) -> list[TaskStatistics]:
        """Call :meth:`AsyncEnvClient.task_results` and wait."""
        return self.wait(self._client.task_results(run_id))

    def cluster(self) -> dict[str, Any]:
        """Call :meth:`AsyncEnvClient.cluster` and wait."""
        return self.wait(self._client.cluster())

    # --- the thread -----------------------------------------------------------------------------------------

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the client's event loop and return its result; an interrupted wait cancels it.

        Raises:
            ClientClosedError: The client is closed.
            ClientLoopError: It is called within that event loop, which would wait for itself.
        """
        with self._lock:
            if self._closed:
                call.close()
                raise ClientClosedError
            if self._thread is threading.current_thread():
                call.close()
                raise ClientLoopError(is_own=True)
            future = asyncio.run_coroutine_threadsafe(call, self._running_loop())
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._closed:
                raise ClientClosedError from None
            raise
        except BaseException:
            future.cancel()
            raise

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run, args=(self._loop,), name="verl-agent-env-client", daemon=True
            )
            self._thread.start()
            self._ender = weakref.finalize(self, _end_unclosed, self._client, self._loop)
            self._ender.atexit = False
        return self._loop

    def close(self) -> None:
        """Close as :meth:`AsyncEnvClient.close` does; calls of other threads end with :class:`ClientClosedError`.

        Raises:
            ClientLoopError: It is called within the client's own event loop.
        """
        if self._thread is threading.current_thread():
            raise ClientLoopError(is_own=True)
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._loop is None or self._thread is None or self._ender is None:
            return
        self._ender.detach()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        """Close the client, then cancel everything else in its loop, such as a call of a language model."""
        await self._client.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def begin_anew(self) -> None:
        """Drop the parent's thread and loop, in a forked process."""
        self._lock, self._thread = threading.Lock(), None
        if self._ender is not None:
            self._ender.detach()
        if self._loop is not None and not self._loop.is_closed():
            _ABANDONED.append(self._loop)
        self._loop = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the client's options: the copy has connections and environments of its own."""
        url, options = self._made_with
        return _make_client, (type(self), url, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end_unclosed(client: AsyncEnvClient, loop: asyncio.AbstractEventLoop) -> None:
    """Have the thread of a client that was never closed close it and end."""

    async def end() -> None:
        try:
            await client.close()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)


def _make_client(cls: type[EnvClient], url: str, options: dict[str, Any]) -> EnvClient:
    return cls(url, **options)


class Env:
    """A blocking :class:`AsyncEnv`."""

    def __init__(self, client: EnvClient, remote: AsyncEnv) -> None:
        self.remote = remote
        """The environment in the client's event loop."""
        self._client = client

    @property
    def env_id(self) -> str:
        """Id of the environment on the server."""
        return self.remote.env_id

    @property
    def seq(self) -> int:
        """Number of the episode's next step."""
        return self.remote.seq

    @property
    def first_steps(self) -> list[StepResult]:
        """Results of the ``actions`` that the creation, or the last reset, carried out first."""
        return self.remote.first_steps

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        actions: Sequence[Action] = (),
    ) -> ResetResult:
        """Call :meth:`AsyncEnv.reset` and wait."""
        return self._client.wait(self.remote.reset(seed=seed, options=options, actions=actions))

    def step(self, action: Action) -> StepResult:
        """Call :meth:`AsyncEnv.step` and wait."""
        return self._client.wait(self.remote.step(action))

    def close(self) -> None:
        """Call :meth:`AsyncEnv.close` and wait."""
        self._client.wait(self.remote.close())

    def state(self) -> dict[str, Any]:
        """Call :meth:`AsyncEnv.state` and wait."""
        return self._client.wait(self.remote.state())

    def task_prompt(self) -> str:
        """Call :meth:`AsyncEnv.task_prompt` and wait."""
        return self._client.wait(self.remote.task_prompt())

    def tools(self, format: Literal["openai", "anthropic"] = "openai") -> list[dict[str, Any]]:  # noqa: A002
        """Call :meth:`AsyncEnv.tools` and wait."""
        return self._client.wait(self.remote.tools(format))

    def seat_view(self, seat: int, *, wait_s: int = 0) -> dict[str, Any]:
        """Call :meth:`AsyncEnv.seat_view` and wait."""
        return self._client.wait(self.remote.seat_view(seat, wait_s=wait_s))

    def wait_for_turn(self, seat: int) -> dict[str, Any]:
        """Call :meth:`AsyncEnv.wait_for_turn` and wait."""
        return self._client.wait(self.remote.wait_for_turn(seat))

    def allow_parallel_tool_call(self) -> bool:
        """Call :meth:`AsyncEnv.allow_parallel_tool_call` and wait."""
        return self._client.wait(self.remote.allow_parallel_tool_call())

    def action_space(self) -> dict[str, Any]:
        """Call :meth:`AsyncEnv.action_space` and wait."""
        return self._client.wait(self.remote.action_space())

    def trajectory(self) -> dict[str, Any]:
        """Call :meth:`AsyncEnv.trajectory` and wait."""
        return self._client.wait(self.remote.trajectory())

    def render(self, mode: Literal["ansi", "svg", "png"] = "ansi") -> str | bytes:
        """Call :meth:`AsyncEnv.render` and wait."""
        return self._client.wait(self.remote.render(mode))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.wait(self.remote.__aexit__(kind, error, traceback))


class SyncRun:
    """A blocking :class:`Run`."""

    def __init__(self, client: EnvClient, run_id: str) -> None:
        self.run_id = run_id
        """Its name on the server."""
        self._client = client

    def make(self, env_name: str, **arguments: Any) -> Env:
        """Create an environment in this run; the arguments are those of :meth:`EnvClient.make`."""
        return self._client.make(env_name, run_id=self.run_id, **arguments)

    def close(self) -> int:
        """Close all environments of the run; return how many were still open."""
        return self._client.close_run(self.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _after_fork() -> None:
    for client in list(_ALL):
        client.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
