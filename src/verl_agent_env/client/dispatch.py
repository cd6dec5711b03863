"""Sending of calls, alone or in batches, to the server or directly to an owner, with retries until the deadline."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

import orjson

from verl_agent_env.client.backoff import retry
from verl_agent_env.client.calls import (
    CLOSE,
    INITIALIZE,
    AnyItem,
    ClientVerb,
    CloseItem,
    Initialized,
    InitializeItem,
)
from verl_agent_env.client.errors import (
    ClientClosedError,
    ClientLoopError,
    NoServerError,
    ServerUnreachableError,
)
from verl_agent_env.client.micro_batching import Item, MicroBatcher
from verl_agent_env.client.owners import Owners
from verl_agent_env.client.transport import MAX_ANSWER_BYTES, Transport, decode_object, read_object
from verl_agent_env.errors import MovedError, VerlAgentEnvError, WorkerUnreachableError

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT", bound=AnyItem)
ResultT = TypeVar("ResultT")
ReadT = TypeVar("ReadT")

_FIRST_CONTACT_S = 5.0
"""Seconds of retries if the server has never been reached."""
_PROBE_S = 2.0
_CLOSE_S = 10.0
_CLOSE_UNANSWERED_S = 1.0
"""Seconds for closing if the server never answered: it may have made environments, but is not waited for once more."""
_MAX_BATCHERS = 256


@dataclass(frozen=True)
class Settings:
    """Options of a client."""

    timeout_s: float = 60.0
    """Seconds that the server may be silent during one attempt."""
    deadline_s: float = 120.0
    """Seconds after which a call fails, attempts and pauses together."""
    close_deadline_s: float | None = None
    """The same for closing; by default that of calls, and 10 at most."""
    micro_batching: bool = True
    """True if concurrent single calls share requests."""
    max_batch: int = 4096
    """Largest number of calls in one request."""
    linger_s: float = 0.0
    """Seconds that a call waits for others to join it while no request is pending."""
    max_delay_s: float = 0.05
    """Seconds that a call waits for a pending request before it is sent beside it."""
    max_connections: int = 64
    """Largest number of open connections."""
    max_answer_bytes: int = MAX_ANSWER_BYTES
    """Largest answer that is read, in bytes."""
    direct: Literal["auto", "never"] = "auto"
    """``auto`` to send calls directly to the worker that owns the environment, if it can be reached from here."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "deadline_s", "close_deadline_s", "max_delay_s", "linger_s"):
            seconds = getattr(self, name)
            if seconds is None and name == "close_deadline_s":
                continue
            is_number = isinstance(seconds, Real) and 0 <= float(seconds) < math.inf
            if not is_number or not (seconds or name == "linger_s"):
                raise ValueError(f"{name} must be a finite number of seconds above 0, not {seconds!r}")
        for name in ("max_batch", "max_connections", "max_answer_bytes"):
            number = getattr(self, name)
            if not isinstance(number, Integral) or number < 1:
                raise ValueError(f"{name} must be an integer of at least 1, not {number!r}")
        if self.direct not in ("auto", "never"):
            raise ValueError(f"direct must be 'auto' or 'never', not '{self.direct}'")


class Dispatch:
    """Sends all calls of one client, and remembers the environments that it has to close."""

    def __init__(self, transport: Transport, settings: Settings) -> None:
        self.settings = settings
        self.deadline_s = settings.deadline_s
        given_s = settings.close_deadline_s
        self.close_deadline_s = min(_CLOSE_S, settings.deadline_s) if given_s is None else given_s
        self.open_envs: dict[str, str] = {}
        """Environments that this client created and has not closed yet, with their runs."""
        self._transport = transport
        self._owners = self._make_owners()
        self._batchers: dict[tuple[Any, ...], MicroBatcher[Any, Any]] = {}
        self._making: Counter[str] = Counter()
        self._orphaned: set[str] = set()
        """Runs that may have environments whose ids this client does not know."""
        self._run_id = _new_run_id()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closed = False

    @property
    def run_id(self) -> str:
        """Run of the environments that are made without a run; a forked process has its own."""
        if os.getpid() != self._pid:
            self._begin_anew(None)
        return self._run_id

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Event loop in which the client was used last."""
        return self._loop

    def enter(self) -> None:
        """Bind the client to the running event loop and to this process.

        Raises:
            ClientLoopError: The event loop in which the client was used before is another one, and open.
        """
        loop = asyncio.get_running_loop()
        is_forked = os.getpid() != self._pid
        if loop is self._loop and not is_forked:
            return
        if self._loop is not None and not is_forked and not self._loop.is_closed():
            raise ClientLoopError
        self._begin_anew(loop)

    def _begin_anew(self, loop: asyncio.AbstractEventLoop | None) -> None:
        is_forked = os.getpid() != self._pid
        if is_forked:
            # The parent closes its own environments.
            self.open_envs, self._orphaned = {}, set()
            self._run_id, self._pid = _new_run_id(), os.getpid()
        self._loop = loop
        self._batchers = {}
        self._making.clear()
        self._transport.discard(is_forked=is_forked)
        self._owners = self._make_owners()

    def _make_owners(self) -> Owners | None:
        return Owners(self._fetch_map, self._transport.scheme) if self.settings.direct == "auto" else None

    # --- calls ----------------------------------------------------------------------------------------------

    async def ask(
        self, verb: ClientVerb[ItemT, ResultT], item: ItemT, *, micro_batching: bool | None = None
    ) -> ResultT:
        """Make one call and return its result.

        Raises:
            VerlAgentEnvError: The server's error, or that it cannot be reached.
        """
        if self._closed:
            raise ClientClosedError
        self.enter()
        url = None
        if self._owners is not None and not isinstance(item, InitializeItem):
            url = self._owners.url_for(item.env_id)
        if self.settings.micro_batching if micro_batching is None else micro_batching:
            return await self._batcher(verb, item, url).submit(item)
        item.sent = True
        headers = {"idempotency-key": item.key} if isinstance(item, InitializeItem) else None
        payload = await self.call(
            "POST",
            verb.single_path(item),
            verb.single_body(item),
            headers,
            url=url,
            deadline=item.deadline,
            items=[item],
        )
        return verb.decode_single(self._transport.url, payload)

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        url: str | None = None,
        deadline: float | None = None,
        items: Sequence[Item] = (),
    ) -> bytes:
        """Send one request, which must be safe to repeat, and return the body of the response.

        Args:
            method: ``GET`` or ``POST``.
            path: Path and query.
            body: JSON.
            headers: Further headers.
            url: URL of a worker to try first.
            deadline: Time on the clock of :func:`time.monotonic`; by the client's setting if not given.
            items: Calls in the request, whose retries are counted.

        Raises:
            VerlAgentEnvError: The server's error, or that it cannot be reached.
        """
        self.enter()
        began = time.monotonic()
        deadline = began + self.deadline_s if deadline is None else deadline
        may_have_run = False

        async def attempt(number: int) -> bytes:
            base = url if number == 0 else None
            if number:
                for item in items:
                    item.retries += 1
            try:
                return await self._transport.send(method, path, body, headers, base=base, deadline=deadline)
            except (MovedError, ServerUnreachableError) as error:
                nonlocal may_have_run
                if isinstance(error, ServerUnreachableError):
                    # An earlier attempt may have run, too.
                    error.may_have_run = may_have_run = may_have_run or error.may_have_run
                if base is not None and self._owners is not None:
                    self._owners.avoid(base)
                    if isinstance(error, NoServerError):
                        raise ServerUnreachableError(base, error.reason) from error
                elif self._never_connected(error) and time.monotonic() - began > _FIRST_CONTACT_S:
                    reason = str(error.fields()["reason"])
                    raise NoServerError(self._transport.url, reason, may_have_run=False) from error
                raise

        return await retry(attempt, deadline)

    async def get_bytes(self, path: str, env_id: str | None = None) -> bytes:
        """Send a GET and return the body of the response."""
        if self._closed:
            raise ClientClosedError
        self.enter()
        url = self._owners.url_for(env_id) if self._owners is not None and env_id else None
        return await self.call("GET", path, url=url)

    async def get(
        self, path: str, read: Callable[[dict[str, Any]], ReadT], env_id: str | None = None
    ) -> ReadT:
        """Send a GET and return what ``read`` finds in the JSON object of the response.

        Raises:
            NoServerError: It does not find it: something else answers at this URL.
        """
        return read_object(self._transport.url, await self.get_bytes(path, env_id), read)

    def _never_connected(self, error: VerlAgentEnvError) -> bool:
        """Tell whether the connection was refused and no server ever answered; a busy server may be late to accept."""
        refused = isinstance(error, ServerUnreachableError) and not error.may_have_run
        return refused and not isinstance(error.__cause__, TimeoutError) and not self._transport.has_answered

    # --- batches --------------------------------------------------------------------------------------------

    def _batcher(
        self, verb: ClientVerb[ItemT, ResultT], item: ItemT, url: str | None
    ) -> MicroBatcher[ItemT, ResultT]:
        key: tuple[Any, ...] = (verb.name, url)
        if isinstance(item, InitializeItem):
            # A batch has one run_id and one ttl_s.
            key = (verb.name, item.run_id, item.ttl_s)
        batcher = self._batchers.get(key)
        if batcher is None:
            if len(self._batchers) >= _MAX_BATCHERS:
                self._batchers = {k: kept for k, kept in self._batchers.items() if not kept.is_idle}

            async def send(items: list[ItemT]) -> Sequence[ResultT | VerlAgentEnvError]:
                return await self._send_batch(verb, items, url)

            batcher = self._batchers[key] = MicroBatcher(
                send,
                max_batch=self.settings.max_batch,
                linger_s=self.settings.linger_s,
                max_delay_s=self.settings.max_delay_s,
                on_unclaimed=self._close_unclaimed if key[0] == INITIALIZE.name else None,
            )
        return batcher

    async def _send_batch(
        self, verb: ClientVerb[ItemT, ResultT], items: list[ItemT], url: str | None
    ) -> Sequence[ResultT | VerlAgentEnvError]:
        headers = {"idempotency-key": uuid.uuid4().hex} if isinstance(items[0], InitializeItem) else None
        payload = await self.call(
            "POST",
            f"/api/batch/{verb.name}",
            verb.batch_body(items),
            headers,
            url=url,
            deadline=min(item.deadline for item in items),
            items=items,
        )
        results = verb.decode_batch(self._transport.url, payload, len(items))
        strayed = any(isinstance(result, MovedError | WorkerUnreachableError) for result in results)
        if strayed and url is not None and self._owners is not None:
            self._owners.avoid(url)
        return results

    # --- closing ------------------------------------------------------------------------------------------

    @contextmanager
    def making(self, run_id: str) -> Iterator[None]:
        """Mark that an environment of this run is being created."""
        self._making[run_id] += 1
        try:
            yield
        finally:
            self._making[run_id] -= 1

    def mark_possible_orphans(self, run_id: str) -> None:
        """Note that this run may have an environment whose id the client does not know."""
        self._orphaned.add(run_id)

    async def close_run(self, run_id: str, deadline: float | None = None) -> int:
        """Close all environments of a run, whether the client knows their ids or not.

        Args:
            run_id: The run.
            deadline: Time on the clock of :func:`time.monotonic`; by the client's setting if not given.

        Returns:
            Number of environments that were closed.

        Raises:
            VerlAgentEnvError: The call did not succeed until the deadline for closing.
        """
        if deadline is None:
            deadline = self._closing_deadline()
        payload = await self.call(
            "POST", "/api/batch/close", orjson.dumps({"run_id": run_id}), deadline=deadline
        )
        self.open_envs = {env_id: run for env_id, run in self.open_envs.items() if run != run_id}
        self._orphaned.discard(run_id)
        return read_object(self._transport.url, payload, lambda answer: int(answer.get("closed", 0)))

    async def close(self) -> None:
        """Cancel pending calls, close all environments that the client created, then all connections."""
        if self._closed:
            return
        self.enter()
        self._closed = True
        try:
            for batcher in list(self._batchers.values()):
                await batcher.close()
            self._orphaned |= {run_id for run_id, count in self._making.items() if count}
            await self._close_environments()
        except VerlAgentEnvError as error:
            # The server closes them when they have been idle for long enough.
            left = (
                f"{len(self.open_envs)} environments" if self.open_envs else "what the server may have made"
            )
            logger.warning("%s could not be closed: %s", left, error)
        finally:
            if self._owners is not None:
                await self._owners.close()
            await self._transport.close()

    def _closing_deadline(self) -> float:
        wait_s = self.close_deadline_s
        if not self._transport.has_answered:
            wait_s = min(wait_s, _CLOSE_UNANSWERED_S)
        return time.monotonic() + wait_s

    async def _close_environments(self) -> None:
        deadline = self._closing_deadline()
        env_ids = list(self.open_envs)
        for start in range(0, len(env_ids), self.settings.max_batch):
            part = env_ids[start : start + self.settings.max_batch]
            body = CLOSE.batch_body([CloseItem(env_id) for env_id in part])
            await self.call("POST", "/api/batch/close", body, deadline=deadline)
            for env_id in part:
                self.open_envs.pop(env_id, None)
        for run_id in list(self._orphaned):
            await self.close_run(run_id, deadline)

    def _close_unclaimed(self, made: Initialized) -> None:
        """Close an environment whose creator has been cancelled meanwhile."""
        self.open_envs[made.env_id] = ""

        def note(closed: asyncio.Future[None]) -> None:
            if not closed.cancelled() and closed.exception() is None:
                self.open_envs.pop(made.env_id, None)

        item = CloseItem(made.env_id, time.monotonic() + self.close_deadline_s)
        self._batcher(CLOSE, item, None).submit(item).add_done_callback(note)

    async def _fetch_map(self, url: str | None) -> dict[str, Any]:
        if url is None:
            return decode_object(self._transport.url, await self.call("GET", "/api/cluster"))
        deadline = time.monotonic() + _PROBE_S
        payload = await self._transport.send("GET", "/api/cluster", base=url, deadline=deadline)
        return decode_object(url, payload)


def _new_run_id() -> str:
    return f"client-{uuid.uuid4().hex}"
