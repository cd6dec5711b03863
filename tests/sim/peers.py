"""The way from one simulated worker to another: parts of batches, of which requests and answers can get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context
from typing import TYPE_CHECKING

import orjson

from tests.sim.wires import Fate
from verl_agent_env.engine import await_maybe
from verl_agent_env.errors import VerlAgentEnvError, WorkerUnreachableError
from verl_agent_env.server.cluster.peers import PeerAnswer
from verl_agent_env.server.http.types import Request

if TYPE_CHECKING:
    from tests.sim.world import Worker, World

TIMEOUT_S = 1.5
"""How long a worker waits for an answer of another one."""


class SimulatedPeers:
    """The other workers, as one of them reaches them."""

    def __init__(self, world: World, sender: Worker) -> None:
        self.fates: list[Fate] = []
        """Of the next calls."""
        self.asked: list[tuple[Worker, asyncio.Future[PeerAnswer]]] = []
        """Who was asked, and what is awaited."""
        self._world = world
        self._sender = sender

    async def open(self) -> None:
        """Do nothing: there are no connections."""

    async def close(self) -> None:
        """Do nothing."""

    def heard_at(self, address: str) -> float | None:
        """When a worker gave a sign of life last, if it does."""
        target = self._find(address)
        return self._world.loop.now if target is not None and target.is_up else None

    async def call(
        self,
        address: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[bytes, bytes] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> PeerAnswer:
        """What the worker at ``address`` answers.

        Raises:
            WorkerUnreachableError: Nobody is there, or no answer came in time.
            VerlAgentEnvError: The worker's own error.
        """
        target = self._find(address)
        if target is None:
            raise WorkerUnreachableError(address, "nobody is there", may_have_run=False)
        loop = self._world.loop
        fate = self.fates.pop(0) if self.fates else Fate()
        answer: asyncio.Future[PeerAnswer] = loop.create_future()
        if not fate.loses_request:
            loop.call_later(
                fate.delay_s, self._arrive, target, path, body, answer, fate.loses_answer, context=Context()
            )
        if fate.copy_after_s is not None:
            nobodys: asyncio.Future[PeerAnswer] = loop.create_future()
            loop.call_later(
                fate.copy_after_s, self._arrive, target, path, body, nobodys, True, context=Context()
            )
        waiting = target, answer
        self.asked.append(waiting)
        try:
            async with asyncio.timeout(timeout_s or TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise WorkerUnreachableError(address, "it did not answer in time") from None
        finally:
            self.asked.remove(waiting)

    def died(self, target: Worker) -> None:
        """Break the connections to a worker that has died."""
        for asked, answer in self.asked:
            if asked is target and not answer.done():
                answer.set_exception(WorkerUnreachableError(target.address, "the connection broke"))

    def _find(self, address: str) -> Worker | None:
        found = self._world.at.get(address)
        return found if found is not None and found.side == self._sender.side else None

    def _arrive(
        self, target: Worker, path: str, body: bytes, answer: asyncio.Future[PeerAnswer], loses_answer: bool
    ) -> None:
        """The other one carries out the call; the connection of a sender that is dead is closed."""
        if target.process.is_dead or self._sender.process.is_dead or answer.done():
            return
        carrying_out = target.spawn(_carried_out(target, path, body))
        # Whatever becomes of the answer, its clients are not done before it is.
        env_ids = set(orjson.loads(body).get("env_ids", ()))
        asked = [client for client in self._world.clients if client.env_id in env_ids]
        for client in asked:
            client.calls.add((carrying_out, target.process))

        def done(task: asyncio.Task[PeerAnswer]) -> None:
            for client in asked:
                client.calls.discard((carrying_out, target.process))
            if not (loses_answer or task.cancelled()):
                self._world.loop.call_later(0.001, _settle, answer, task, context=Context())

        carrying_out.add_done_callback(done, context=Context())


async def _carried_out(target: Worker, path: str, body: bytes) -> PeerAnswer:
    response = await await_maybe(target.parts[path](Request("", body, b"", {})))
    return PeerAnswer(bytes(response.body), response.media_type)


def _settle(answer: asyncio.Future[PeerAnswer], task: asyncio.Task[PeerAnswer]) -> None:
    if answer.done():
        return
    error = task.exception()
    if error is None:
        answer.set_result(task.result())
    elif isinstance(error, VerlAgentEnvError):
        answer.set_exception(error)
