"""The primary of a Redis with replicas: where it is, and whether it is another one than before.

Replication is asynchronous: a replica that becomes the primary may lack the last writes that were acknowledged. So the
first connection to another primary makes its data another data set, as an emptied store is: a new generation, and no
owners of slots. Whoever still writes in the name of the generation before is refused; owners claim what they had, and
write their environments again from memory. What nobody can write again, such as the environments of a worker that
ended together with the primary, is as the replica had it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError
from redis.sentinel import MasterNotFoundError

from verl_agent_env import background
from verl_agent_env.cluster.redis import scripts
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.pipe import Send, pack
from verl_agent_env.cluster.redis.url import SentinelGroup

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_ANSWER_S = 1.0
_RUN_ID = re.compile(r"^run_id:(\w+)", re.MULTILINE)
_ROLE = re.compile(r"^role:(\w+)", re.MULTILINE)


async def follow_primary(keys: Keys | None, send: Send) -> None:
    """Begin a connection: make the data another data set if its primary is another one than before.

    Args:
        keys: Of the data set; None for a client that writes none.
        send: Sends on this connection.

    Raises:
        ReadOnlyError: It is a replica.
        RedisError: It does not permit a command.
    """
    info = str(await send(pack("INFO")))
    role, run_id = _ROLE.search(info), _RUN_ID.search(info)
    if role is None or role[1] != "master" or run_id is None:
        raise ReadOnlyError("READONLY it is a replica")
    if keys is None:
        return
    names = (keys.generation, keys.version, keys.changes, keys.owners, keys.primary)
    script = scripts.FOLLOW_PRIMARY.text
    if await send(pack("EVAL", script, len(names), *names, run_id[1], uuid.uuid4().hex)):
        logger.warning("data in Redis counts as another data set: its primary has changed")


class Primary:
    """Finds the primary that Sentinels elected, and watches for another one."""

    def __init__(self, group: SentinelGroup, options: dict[str, Any]) -> None:
        """Follow the primary that ``group`` watches.

        Args:
            group: The Sentinels.
            options: Of connections to the Sentinels, for redis-py.
        """
        self._service = group.service
        self._sentinels = [
            Redis(
                host=host,
                port=port,
                username=group.username or None,
                password=group.password or None,
                socket_timeout=_ANSWER_S,
                socket_connect_timeout=_ANSWER_S,
                decode_responses=True,
                protocol=2,
                # It is asked again anyway, and the others answer meanwhile.
                retry=Retry(NoBackoff(), 0),
                **options,
            )
            for host, port in group.addresses
        ]
        self._known: tuple[str, int] | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when the primary is another one: connections lead to the former."""
        self._watch: asyncio.Task[None] | None = None

    async def discover_master(self, service_name: str = "") -> tuple[str, int]:
        """Return the address of the primary that was elected last, as redis-py's Sentinel does.

        Raises:
            MasterNotFoundError: No Sentinel that answers knows one.
        """
        if self._watch is None:
            # A primary that was frozen goes on taking writes when it wakes up, until a Sentinel makes it a replica.
            self._watch = background.start("primary of Redis", self._look_forever)
        answers = await asyncio.gather(*map(self._ask, self._sentinels))
        # A Sentinel that was cut off may still tell of the primary before.
        found = [answer for answer in answers if not isinstance(answer, str)]
        if not found:
            refusals = "; ".join(
                dict.fromkeys(answer for answer in answers if isinstance(answer, str) and answer)
            )
            said = f" ({refusals})" if refusals else ""
            raise MasterNotFoundError(f"no Sentinel that answers watches '{self._service}'{said}")
        _, host, port = max(found)
        present = host, port
        if self._known is not None and present != self._known:
            logger.warning("Redis has another primary", extra={"address": "{}:{}".format(*present)})
            self.on_change()
        self._known = present
        return present

    async def aclose(self) -> None:
        """Stop watching, and close the connections to the Sentinels."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        for sentinel in self._sentinels:
            await sentinel.aclose()

    async def _ask(self, sentinel: Any) -> tuple[int, str, int] | str:
        """Return when the primary was elected, and its address, as one Sentinel knows it; or what it says instead."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                state = await sentinel.execute_command("SENTINEL", "MASTER", self._service)
        except (AuthenticationError, ResponseError) as refusal:
            # Arguments may be secret.
            return f"it says: {str(refusal).partition(', with args')[0]}"
        except (RedisError, OSError, TimeoutError):
            return ""
        fields = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
        return int(fields["config-epoch"]), str(fields["ip"]), int(fields["port"])

    async def _look_forever(self) -> None:
        while True:
            with contextlib.suppress(MasterNotFoundError):
                await self.discover_master()
            await asyncio.sleep(_LOOK_S)
