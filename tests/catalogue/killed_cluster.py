"""Episodes over HTTP in a cluster whose workers are killed in their middle, many environments at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import orjson

from tests.pool_process import all_workers, is_running
from tests.waiting import eventually
from verl_agent_env.client import AsyncEnv, AsyncEnvClient
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.envs.checker.subject import Subject, to_json
from verl_agent_env.errors import VerlAgentEnvError

_PATIENCE_S = 600.0
_SEED = 0


@dataclass
class _Episode:
    """One episode as it was played in this process, and how far it is in the cluster."""

    subject: Subject
    env: AsyncEnv = field(init=False)
    beginning: list[Any] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    results: list[list[Any]] = field(default_factory=list)
    fault: str = ""
    """What went wrong in the cluster, if anything did."""

    def play_here(self) -> None:
        """Play the episode that the cluster shall give."""
        subject = self.subject
        env = subject.build()
        policy = subject.policy(env, _SEED)
        self.beginning = _plain(env.reset(seed=_SEED))
        for _ in range(subject.num_steps):
            action = policy()
            result = env.step(action)
            self.actions.append(action)
            self.results.append(_plain(result))
            if result[2] or result[3]:
                break
        env.close()

    async def begin(self, client: AsyncEnvClient) -> None:
        """Begin the episode in the cluster."""
        self.env = client.make(
            self.subject.kind.name, seed=_SEED, env_kwargs=self.subject.kwargs, ttl_s=_PATIENCE_S
        )
        with self.noting():
            self._compare("the beginning", self.beginning, await self.env.reset())

    async def play(self, end: int) -> None:
        """Go on with it in the cluster, up to this step."""
        with self.noting():
            for seq in range(self.env.seq, end):
                self._compare(f"step {seq}", self.results[seq], await self.env.step(self.actions[seq]))

    async def look(self) -> None:
        """Have the environment be brought back by whichever worker owns it now."""
        with self.noting():
            await self.env.task_prompt()

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note what goes wrong, the first time."""
        try:
            yield
        except (VerlAgentEnvError, _DiffersError) as wrong:
            self.fault = self.fault or str(wrong)

    def _compare(self, what: str, expected: Sequence[Any], got: Sequence[Any]) -> None:
        if list(expected) != list(got):
            raise _DiffersError(f"{what} was {_short(expected)}, but {_short(list(got))} in the cluster")


class _DiffersError(Exception):
    """The cluster gave something else than this process."""


class KilledCluster:
    """Two nodes of one worker each, behind nginx; both are killed while each chunk of environments is played."""

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._folder = folder

    def __enter__(self) -> Self:
        self._cluster = self._stack.enter_context(LocalCluster(self._folder, nodes=2, workers=1))
        self._http = self._stack.enter_context(httpx.Client(base_url=self._cluster.url, timeout=_PATIENCE_S))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, subjects: Sequence[Subject]) -> list[str]:
        """Play an episode of each environment; gives what went wrong with it, or an empty text.

        Half of each episode is played. Then one worker is killed, all environments are looked at, the other worker is killed,
        and the rest is played: each environment loses the worker that holds it, once at least.
        """
        episodes = [_Episode(subject) for subject in subjects]
        for episode in episodes:
            episode.play_here()
        asyncio.run(self._play(episodes))
        return [episode.fault for episode in episodes]

    async def _play(self, episodes: Sequence[_Episode]) -> None:
        async with AsyncEnvClient(self._cluster.url, deadline_s=_PATIENCE_S) as client:
            await asyncio.gather(*(episode.begin(client) for episode in episodes))
            await asyncio.gather(*(episode.play(len(episode.actions) // 2) for episode in episodes))
            for worker in range(2):
                await asyncio.to_thread(self._kill, worker)
                await asyncio.gather(*(episode.look() for episode in episodes))
            await asyncio.gather(*(episode.play(len(episode.actions)) for episode in episodes))

    def _kill(self, index: int) -> None:
        workers: list[dict[str, Any]] = []

        def are_both_there() -> bool:
            workers[:] = sorted(all_workers(self._http), key=lambda worker: str(worker["address"]))
            return len(workers) == 2

        eventually(lambda: self._is_settled() and are_both_there(), _PATIENCE_S, what="the cluster")
        pid = int(workers[index]["pid"])
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not is_running(pid), what="the worker's end")

    def _is_settled(self) -> bool:
        with contextlib.suppress(OSError, httpx.TransportError):
            return self._cluster.is_settled()
        return False


def _plain(result: Any) -> list[Any]:
    """Give a result as its JSON is read."""
    read: list[Any] = orjson.loads(to_json(result))
    if len(read) == 5:
        read[1] = float(read[1])
    return read


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text[:200] + ("…" if len(text) > 200 else "")
