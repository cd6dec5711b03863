"""Answers of requests that carry an ``Idempotency-Key``: the same key is answered once and for all."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from verl_agent_env.engine import CreateRequest
from verl_agent_env.errors import IdempotencyKeyReusedError, InvalidRequestError, ShuttingDownError
from verl_agent_env.types import NUM_SLOTS, slot_of

_KEY = re.compile(rb"[!-~]{1,256}")
_SEED_SHIFT = 64 - 53
_ENTRY_BYTES = 1024
"""What an entry takes besides its answer and its key."""


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    answer: asyncio.Future[bytes]
    expires_at: float
    size: int = 0


def require_key(key: bytes) -> None:
    """Raise when a key is none.

    Raises:
        InvalidRequestError: It is empty, too long, or holds other than visible ASCII.
    """
    if _KEY.fullmatch(key) is None:
        raise InvalidRequestError(
            [{"loc": ["header", "Idempotency-Key"], "msg": "not 1 to 256 visible ASCII characters"}]
        )


def named_by(key: bytes | None, requests: Sequence[CreateRequest]) -> list[CreateRequest]:
    """The requests, with ids and seeds that follow from ``key``: whoever carries them out makes the same environments.

    So a key holds even if the worker that knew the answer is gone. The ids lie evenly in all slots; that of a single
    one lies in the slot of the key, whose owner is asked for it.
    """
    if key is None:
        return list(requests)
    require_key(key)
    slot, size = slot_of(key.decode("ascii")), len(requests)
    named = []
    for position, request in enumerate(requests):
        digest = hashlib.blake2b(b"%b %d" % (key, position), digest_size=24).digest()
        env_id = f"{(slot + position * NUM_SLOTS // size) % NUM_SLOTS:03x}-{digest[:16].hex()}"
        seed = request.seed if request.seed is not None else int.from_bytes(digest[16:]) >> _SEED_SHIFT
        named.append(dataclasses.replace(request, env_id=env_id, seed=seed))
    return named


class IdempotentAnswers:
    """Keeps successful answers by key for a while, within a bound on bytes; a failed request may be tried again."""

    def __init__(self, memory_s: float, memory_bytes: int, clock: Callable[[], float]) -> None:
        self._memory_s = memory_s
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._entries: OrderedDict[tuple[str, bytes], _Entry] = OrderedDict()
        self._size = 0

    async def answer(
        self, route: str, key: bytes | None, body: bytes, compute: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """The kept answer of ``key``, that of the same request in flight, or what ``compute`` gives; no key, no keeping.

        Raises:
            IdempotencyKeyReusedError: The key came before with another body.
            InvalidRequestError: As :func:`require_key`.
        """
        if key is None:
            return await compute()
        require_key(key)
        self._forget_expired()
        name = (route, key)
        fingerprint = hashlib.sha256(body).digest()
        entry = self._entries.get(name)
        if entry is not None:
            if entry.fingerprint != fingerprint:
                raise IdempotencyKeyReusedError
            return await asyncio.shield(entry.answer)
        entry = _Entry(
            fingerprint, asyncio.get_running_loop().create_future(), self._clock() + self._memory_s
        )
        self._entries[name] = entry
        try:
            answer = await compute()
        except BaseException as failure:
            del self._entries[name]
            # Whoever joined was not cancelled: for them the server is stopping.
            told = ShuttingDownError() if isinstance(failure, asyncio.CancelledError) else failure
            entry.answer.set_exception(told)
            # Seen here; without this, a failure that nobody else waited for would be reported as never retrieved.
            entry.answer.exception()
            raise
        entry.answer.set_result(answer)
        entry.size = len(answer) + len(key) + _ENTRY_BYTES
        self._size += entry.size
        self._forget_oldest(name)
        return answer

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            if entry.expires_at > now or not entry.answer.done():
                return
            self._drop(name)

    def _forget_oldest(self, newest: tuple[str, bytes]) -> None:
        """Make room; the newest stays even if it fills all of it, or its repetition would make all again."""
        while self._size > self._memory_bytes:
            name = next((n for n, e in self._entries.items() if e.answer.done() and n != newest), None)
            if name is None:
                return
            self._drop(name)

    def _drop(self, name: tuple[str, bytes]) -> None:
        self._size -= self._entries.pop(name).size
