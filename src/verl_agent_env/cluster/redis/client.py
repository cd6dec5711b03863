"""The Redis client: bounded in time, with typed errors and automatic reconnection."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    InvalidResponse,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import MasterNotFoundError

from verl_agent_env import background
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.pipe import Endpoint, RedisPipe, pack
from verl_agent_env.cluster.redis.primary import Primary, follow_primary
from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.cluster.redis.url import FORMS, RedisUrl
from verl_agent_env.errors import StoreFullError, StoreUnavailableError

_ResultT = TypeVar("_ResultT")
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")


class RedisClient:
    """Calls to the Redis at ``url``, each bounded by ``limits``.

    Raises:
        ValueError: The URL is malformed; the message shows the form, and never a password.
    """

    def __init__(self, url: str, limits: RedisLimits, keys: Keys | None = None) -> None:
        """Make a client that connects when it is called.

        Args:
            url: As :meth:`~verl_agent_env.cluster.redis.url.RedisUrl.parse` reads it.
            limits: Of each call.
            keys: Of the data set that it writes: where Sentinels elect primaries, its generation changes with them.
        """
        self.limits = limits
        read = RedisUrl.parse(url)
        self.where = read.where
        """URL without the password, for messages."""
        self._replicas = read.replicas
        pool: Any = BlockingConnectionPool.from_url(
            read.plain,
            max_connections=limits.max_connections,
            timeout=limits.call_s,
            socket_connect_timeout=limits.connect_s,
            socket_timeout=limits.call_s,
            decode_responses=True,
            protocol=2,
            # `call` retries within its own time limit.
            retry=Retry(NoBackoff(), 0),
        )
        endpoint = _endpoint_of(pool)
        self._primary: Primary | None = None
        if read.sentinels is None:
            greet = functools.partial(follow_primary, keys) if read.fails_over else None
            self._pipe = RedisPipe(endpoint, limits.connect_s, greet=greet)
        else:
            options = pool.connection_kwargs
            self._primary = primary = Primary(read.sentinels, _tls_of(options, endpoint))
            located = {name: value for name, value in options.items() if name not in ("host", "port")}
            make_pool: Any = SentinelConnectionPool
            pool = make_pool(read.sentinels.service, primary, ssl=endpoint.tls is not None, **located)
            # Sentinels are asked first, which may take as long again.
            primary.on_change = self._leave_primary
            self._pipe = RedisPipe(
                endpoint,
                2 * limits.connect_s,
                primary.discover_master,
                functools.partial(follow_primary, keys),
            )
        # Any: its types are those of the synchronous and the asynchronous client at once.
        self.redis: Any = Redis.from_pool(pool)
        """Client of redis-py, for use within :meth:`call` only."""
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def has_sentinels(self) -> bool:
        """True if Sentinels say where the primary is."""
        return self._primary is not None

    async def run(self, script: Script, keys: list[str], arguments: list[Any]) -> Any:
        """Run a script.

        Raises:
            StoreUnavailableError: There was no answer, or too few replicas have what it wrote; whether it ran is unknown.
        """
        replicas = self._replicas if script.waits_for_replicas else 0

        inputs = (len(keys), *keys, *arguments)
        packed = pack("EVALSHA", script.sha, *inputs)

        async def send(command: bytes) -> Any:
            if not replicas:
                return await self._pipe.call(command)
            # A script that Redis does not know is sent a second time, and waits twice.
            answer, having = await self._pipe.call_and_wait(command, replicas, self.limits.call_s / 3)
            if having < replicas:
                reason = f"{having} replicas have the last write, of {replicas} that must"
                raise StoreUnavailableError(self.where, reason, may_have_run=True)
            return answer

        is_again = False

        async def ask() -> Any:
            nonlocal is_again
            was_asked, is_again = is_again, True
            try:
                return await send(packed)
            except NoScriptError:
                # Redis was restarted or is new; EVAL also loads the script.
                return await send(pack("EVAL", script.text, *inputs))
            except asyncio.CancelledError:
                # Timed out: the connection may be half open, so the next call opens a new one. One that was opened since, because
                # of another call, has had less time: closed as well, it would fail all that wait there, who ask only twice.
                if not was_asked:
                    self._pipe.close()
                raise

        return await self.call(ask, len(packed))

    async def call(self, ask: Callable[[], Awaitable[_ResultT]], size: int = 0) -> _ResultT:
        """Run ``ask``, and run it a second time if its connection broke, since Redis may be back already.

        Args:
            ask: An idempotent operation.
            size: Bytes to send, if they are many: a slow network needs time for them.

        Raises:
            StoreUnavailableError: Redis did not answer in time, or takes no commands.
        """
        call_s = self.limits.call_s + size / self.limits.bytes_per_s
        with _typed_errors(self.where, call_s):
            async with asyncio.timeout(call_s):
                with _heeding_cancellation():
                    try:
                        return await ask()
                    except (AuthenticationError, BusyLoadingError):
                        raise
                    except RedisConnectionError:
                        return await ask()

    async def aclose(self) -> None:
        """Close all connections."""
        self._pipe.close()
        if self._primary is not None:
            await self._primary.aclose()
        await self.redis.aclose()

    def _leave_primary(self) -> None:
        """Let the next call connect to the primary that is one now."""
        self._pipe.close()
        task = asyncio.get_running_loop().create_task(self.redis.connection_pool.disconnect())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


class PubSubListener:
    """Listens on a channel, from the first call of :meth:`next` on.

    Notifications are best effort: a lost one delays its waiters until the next poll. So after any error it subscribes again.
    """

    def __init__(self, client: RedisClient, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def next(self) -> asyncio.Event:
        """Return an event that the next notification sets."""
        if self._task is None:
            self._task = background.start("map notices", self._listen_forever)
        return self._event

    async def aclose(self) -> None:
        """Stop listening."""
        # redis-py can swallow a cancellation while it connects, so it is repeated until the task ends.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.05)

    async def _listen_forever(self) -> None:
        pause_s = self._client.limits.poll_s
        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with self._subscribed() as pubsub:
                    # The first message confirms the subscription; notifications before it were missed.
                    while await self._next_message(pubsub, pause_s):
                        pass
            await asyncio.sleep(pause_s)

    async def _next_message(self, pubsub: Any, timeout_s: float) -> bool:
        """Wait for a message; return False if the connection is dead."""
        clock = asyncio.get_running_loop().time
        end = clock() + timeout_s / 2
        if await pubsub.get_message(timeout=timeout_s):
            self._wake()
            return True
        # After ETIMEDOUT redis-py returns at once without a message, each time, as if the connection were only silent.
        return clock() > end

    @contextlib.asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[Any]:
        pubsub = self._client.redis.pubsub()
        try:
            await pubsub.subscribe(self._channel)
            yield pubsub
        finally:
            await pubsub.aclose()

    def _wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()


def _tls_of(options: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """Return the options of TLS, which are the same for Sentinels as for the primary."""
    if endpoint.tls is None:
        return {}
    return {"ssl": True, **{name: value for name, value in options.items() if name.startswith("ssl_")}}


def _endpoint_of(pool: Any) -> Endpoint:
    """Return the endpoint of a pool's connections.

    Raises:
        ValueError: The URL has an option that is unknown, or has no such value, or names a file that is of no use.
    """
    options = pool.connection_kwargs
    try:
        context = getattr(pool.connection_class(**options), "ssl_context", None)
        tls = None if context is None else context.get()
    except OSError as unread:
        files = " and ".join(f"'{options[name]}'" for name in _TLS_FILES if options.get(name))
        reason = unread.strerror or unread
        raise ValueError(f"{files}, which the Redis URL names for TLS, cannot be used: {reason}") from None
    except (TypeError, ValueError, RedisError):
        raise ValueError(FORMS) from None
    return Endpoint(
        host=options.get("host", "localhost"),
        port=options.get("port", 6379),
        path=options.get("path", ""),
        username=options.get("username") or "",
        password=options.get("password") or "",
        db=int(options.get("db") or 0),
        tls=tls,
    )


@contextlib.contextmanager
def _heeding_cancellation() -> Iterator[None]:
    """Raise a cancellation that ``asyncio.wait_for`` in redis-py has swallowed.

    Until Python 3.12 it swallows one that comes in the same turn of the event loop in which the awaited task ends. The
    task would never end.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


@contextlib.contextmanager
def _typed_errors(where: str, call_s: float) -> Iterator[None]:
    """Convert errors of redis-py; a bug of this project (a wrong type, a broken script) is raised unchanged."""
    try:
        yield
    except (TimeoutError, RedisTimeoutError):
        hint = " (does it speak TLS there?)" if where.startswith("rediss:") else ""
        raise StoreUnavailableError(where, f"it did not answer within {round(call_s, 1):g} s{hint}") from None
    except AuthenticationError:
        raise StoreUnavailableError(where, "it refuses the user or password of the URL") from None
    except BusyLoadingError:
        raise StoreUnavailableError(where, "it is still loading its data") from None
    except MasterNotFoundError as unknown:
        raise StoreUnavailableError(where, str(unknown)) from None
    except RedisConnectionError:
        raise StoreUnavailableError(where, "it cannot be reached") from None
    except ssl.SSLCertVerificationError as error:
        raise StoreUnavailableError(
            where, f"its certificate is not accepted: {error.verify_message}"
        ) from None
    except ssl.SSLError:
        raise StoreUnavailableError(
            where, "it does not speak TLS there: is it redis:// in place of rediss://?"
        ) from None
    except InvalidResponse:
        raise StoreUnavailableError(
            where, "what answers there does not speak the protocol of Redis"
        ) from None
    except OSError as error:
        raise StoreUnavailableError(where, f"it cannot be reached ({error.strerror or error})") from None
    except ResponseError as error:
        refusal = _refusal(where, error)
        if refusal is None:
            raise
        raise refusal from error


_REFUSALS = {
    "OOM": "it is out of memory",
    "READONLY": "it is a read-only replica",
    "NOPERM": "it does not permit a command to the user of the URL",
    "NOAUTH": "it asks for a password",
    "MISCONF": "it cannot save to its disk",
    "MASTERDOWN": "its primary is down",
    "CLUSTERDOWN": "its cluster is down",
    "MOVED": "another node of its Redis Cluster has the keys of this namespace",
    "ASK": "another node of its Redis Cluster is taking over the keys of this namespace",
    "TRYAGAIN": "another node of its Redis Cluster is taking over the keys of this namespace",
    "BUSY": "it is busy with a script",
    "NOREPLICAS": "it has too few replicas",
}
_TYPED_REFUSALS = {
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    NoPermissionError: "NOPERM",
    MovedError: "MOVED",
    AskError: "ASK",
}
# Answers without a code of their own; the words are Redis' since 2.6, of scripts since 6, and again since 7.2, as Valkey's.
_DEFECTS = {
    re.compile(
        r"unknown (redis )?command", re.IGNORECASE
    ): "it does not know a command that is needed: is it renamed or disabled?",
    re.compile(
        r"user executing the script can't|ACL failure in script", re.IGNORECASE
    ): "it does not permit a command to the user of the URL",
    # What it says of a command of more than ten parts.
    re.compile(r"unauthenticated", re.IGNORECASE): "it asks for a password",
    re.compile(r"DB index", re.IGNORECASE): "it has no database of the number in the URL",
    re.compile(
        r"SELECT is not allowed in cluster mode"
    ): "it is a node of a Redis Cluster, whose only database is 0",
}
_PLACE_IN_SCRIPT = re.compile(r",? ?script: .*$")
# Within a script, Redis before 7 puts the error of a command behind words of its own.
_REFUSAL = re.compile(rf"(?:^|: -)({'|'.join(_REFUSALS)})\b")


def _refusal(where: str, error: ResponseError) -> StoreUnavailableError | None:
    """Return the error for an answer that says why Redis accepts no commands at present; None for any other answer."""
    named = _REFUSAL.search(str(error))
    code = named[1] if named is not None else _TYPED_REFUSALS.get(type(error))
    if code is None:
        defect = next((text for words, text in _DEFECTS.items() if words.search(str(error))), None)
        said = _PLACE_IN_SCRIPT.sub("", str(error))
        return None if defect is None else StoreUnavailableError(where, f"{defect} ({said})")
    if code == "OOM":
        return StoreFullError(where)
    # Behind a hash slot stands where to ask.
    other = f" ({str(error).rpartition(' ')[2]})" if code in ("MOVED", "ASK") else ""
    return StoreUnavailableError(where, _REFUSALS[code] + other)
