"""Calls that carry an ``Idempotency-Key``: the same key is answered once and for all."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import random
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from verl_agent_env.cluster.idempotency import IdempotencyRecord, IdempotencyRecords
from verl_agent_env.cluster.ring import ring_over
from verl_agent_env.cluster.slots import share_holders
from verl_agent_env.engine import CreateRequest
from verl_agent_env.errors import IdempotencyKeyReusedError, InvalidRequestError, ShuttingDownError
from verl_agent_env.server.http.headers import HOP_HEADER, KEY_HEADER
from verl_agent_env.server.http.types import Request
from verl_agent_env.types import NUM_SLOTS, numbered_env_id, slot_text
from verl_agent_env.wire.large_bodies import Turn
from verl_agent_env.wire.pieces import Body

T = TypeVar("T")
Named = Callable[[Sequence[CreateRequest], int], Awaitable[Sequence[CreateRequest]]]
"""Gives requests the ids and seeds of their key, given the least number of them that a worker gets; without a key, none."""

_KEY = re.compile(rb"[!-~]{1,256}")
_NAME = re.compile(rb"[0-9a-f]{32}")
_NAME_BYTES = 16
_SEED_SHIFT = 64 - 53
_ENTRY_BYTES = 1024
"""What a kept answer takes besides itself."""
_ITEMS = 1024
"""Requests that are named in one turn, and"""
_BYTES = 8 * 1024 * 1024
"""bytes of a body that are looked at in one: some milliseconds."""


def name_of_key(request: Request) -> str | None:
    """The name of a call's key, 32 hex digits; None if it has no key.

    It is a digest of the key and of whose it is: keys live within the holder of the token that they came with.

    Raises:
        InvalidRequestError: The key is empty, too long, or holds other than visible ASCII.
    """
    key = request.headers.get(KEY_HEADER)
    if key is None:
        return None
    by_worker = request.principal.is_forwarded or request.principal.is_admin
    if HOP_HEADER in request.headers and by_worker and _NAME.fullmatch(key):
        # Another worker, which saw the token, has named it.
        return key.decode()
    if _KEY.fullmatch(key) is None:
        raise InvalidRequestError(
            [{"loc": ["header", "Idempotency-Key"], "msg": "not 1 to 256 visible ASCII characters"}]
        )
    return hashlib.blake2b(request.principal.key_scope + b"\0" + key, digest_size=_NAME_BYTES).hexdigest()


def slot_of_key(name: str, num_slots: int) -> int:
    """The slot, of ``num_slots``, whose owner answers for a key."""
    return int(name[: len(slot_text(0, num_slots))], 16)


async def fingerprint_of(route: str, body: bytes, turn: Turn) -> str:
    """Tell a request from all others."""
    digest = hashlib.blake2b(route.encode() + b"\0", digest_size=_NAME_BYTES)
    view = memoryview(body)
    for start in range(0, len(body), _BYTES):
        if start:
            await turn()
        digest.update(view[start : start + _BYTES])
    return digest.hexdigest()


async def named_by(
    name: str,
    record: IdempotencyRecord,
    requests: Sequence[CreateRequest],
    turn: Turn,
    num_slots: int = NUM_SLOTS,
    together: int = 1,
) -> list[CreateRequest]:
    """Give the requests ids and seeds that follow from the record: whoever carries them out makes the same environments.

    So a key holds even if the worker that knew the answer is gone. The ids lie in equal shares in the slots
    that the ring means for the record's workers, or for some of them where they are many (:func:`share_holders`); without workers evenly in all slots, and that of a single
    one in the slot of the key, whose owner is asked for it. ``turn`` is waited for after every few milliseconds of work.
    """
    shares, size = _shares_of(record.workers, num_slots), len(requests)
    number = share_holders(len(shares), size, together)
    if number < len(shares):
        shares = tuple(random.Random(f"{name} {record.nonce}").sample(shares, number))
    first = slot_of_key(name, num_slots)
    named = []
    for position, request in enumerate(requests):
        if position and position % _ITEMS == 0:
            await turn()
        digest = hashlib.blake2b(b"%d" % position, digest_size=28, key=record.nonce.encode()).digest()
        slot = (first + position * num_slots // size) % num_slots
        if shares:
            share = shares[(first + len(shares) * position // size) % len(shares)]
            slot = share[int.from_bytes(digest[24:]) % len(share)]
        number = int.from_bytes(digest[:16])
        env_id = numbered_env_id(slot, request.tag, number, num_slots)
        seed = request.seed if request.seed is not None else int.from_bytes(digest[16:24]) >> _SEED_SHIFT
        named.append(dataclasses.replace(request, env_id=env_id, seed=seed))
    return named


@functools.lru_cache(maxsize=64)
def _shares_of(workers: tuple[str, ...], num_slots: int) -> tuple[tuple[int, ...], ...]:
    """The slots of each of these workers on the ring over them; those that have some."""
    shares: dict[str, list[int]] = {}
    if workers:
        for slot, address in enumerate(ring_over(workers, num_slots).assignments):
            shares.setdefault(address, []).append(slot)
    return tuple(tuple(shares[address]) for address in sorted(shares))


@dataclass(slots=True)
class _KeptAnswer:
    fingerprint: str
    answer: asyncio.Future[Body]
    expires_at: float
    epoch: int
    """How many times the key's slot had gone to another worker."""
    size: int = 0


class KeptAnswers:
    """Keeps successful answers by key for a while, within a bound on bytes; a failed request may be tried again."""

    def __init__(
        self,
        memory_s: float,
        memory_bytes: int,
        clock: Callable[[], float],
        epoch_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """Keep nothing yet.

        Args:
            memory_s: How long an answer is kept.
            memory_bytes: How much is kept in all.
            clock: Seconds.
            epoch_of: How many times the slot of a key, by its name, went to another worker. That one may have answered since,
                and otherwise.
        """
        self._epoch_of = epoch_of
        self._memory_s = memory_s
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _KeptAnswer] = OrderedDict()
        self._size = 0

    async def find(self, name: str, fingerprint: str) -> Body | None:
        """Give the kept answer of a request, or that of the same one in flight; None if there is none."""
        self._forget_expired()
        entry = self._entries.get(name)
        if entry is None or entry.fingerprint != fingerprint:
            return None
        if entry.answer.done() and entry.epoch != self._epoch_of(name):
            return None
        return await asyncio.shield(entry.answer)

    async def keep(self, name: str, fingerprint: str, compute: Callable[[], Awaitable[Body]]) -> Body:
        """Give what ``compute`` gives, and from now on to all who ask for it; what was kept under the key goes."""
        self._drop(name)
        expires_at = self._clock() + self._memory_s
        entry = self._entries[name] = _KeptAnswer(
            fingerprint, asyncio.get_running_loop().create_future(), expires_at, self._epoch_of(name)
        )
        try:
            answer = await compute()
        except BaseException as failure:
            if self._entries.get(name) is entry:
                self._drop(name)
            # Whoever joined was not cancelled: for them the server is stopping.
            told = ShuttingDownError() if isinstance(failure, asyncio.CancelledError) else failure
            entry.answer.set_exception(told)
            # Seen here; without this, a failure that nobody else waited for would be reported as never retrieved.
            entry.answer.exception()
            raise
        entry.answer.set_result(answer)
        if self._entries.get(name) is entry:
            entry.size = len(answer) + _ENTRY_BYTES
            self._size += entry.size
            self._forget_oldest()
        return answer

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            if entry.expires_at > now or not entry.answer.done():
                return
            self._drop(name)

    def _forget_oldest(self) -> None:
        """Make room; an answer that is larger than all of it goes at once, for its environments can be asked again."""
        while self._size > self._memory_bytes:
            self._drop(next(name for name, entry in self._entries.items() if entry.answer.done()))

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        self._size -= 0 if entry is None else entry.size


class IdempotentRequests:
    """Carries out calls that make environments; those of one key once."""

    def __init__(
        self, records: IdempotencyRecords, answers: KeptAnswers, turn: Turn, num_slots: int = NUM_SLOTS
    ) -> None:
        """Make environments under keys.

        Args:
            records: What is known of each key, by all workers.
            answers: What this worker has answered.
            turn: Waits for the turn of a large request.
            num_slots: Number of slots.
        """
        self._turn = turn
        self._num_slots = num_slots
        self._records = records
        self._answers = answers

    async def answer(
        self,
        route: str,
        request: Request,
        read: Callable[[], Awaitable[T]],
        make: Callable[[T, Named], Awaitable[Body]],
        *,
        workers: Collection[str] = (),
    ) -> Body:
        """Give the answer to a call, the same to all calls of its key.

        Args:
            route: Which call it is.
            request: The request.
            read: Reads and checks what is asked for. What it refuses leaves the key free.
            make: Makes it.
            workers: Addresses of the workers that the environments are for; none where it is a single one.

        Raises:
            IdempotencyKeyReusedError: The key came before with another request.
            InvalidRequestError: The key is none.
            StoreUnavailableError: What is known of the key cannot be read.
        """
        name = name_of_key(request)
        if name is None:
            return await make(await read(), _as_they_are)
        fingerprint = await fingerprint_of(route, request.body, self._turn)
        kept = await self._answers.find(name, fingerprint)
        if kept is not None:
            return kept
        wanted = await read()
        # Whose the key is, the record alone decides: what is in flight here may be the request that it is not.
        fresh = IdempotencyRecord(fingerprint, secrets.token_hex(16), tuple(sorted(workers)))
        record = await self._records.claim(name, fresh)
        if record.fingerprint != fingerprint:
            raise IdempotencyKeyReusedError
        kept = await self._answers.find(name, fingerprint)
        if kept is not None:
            return kept
        return await self._answers.keep(
            name,
            fingerprint,
            lambda: make(
                wanted,
                lambda requests, together: named_by(
                    name, record, requests, self._turn, self._num_slots, together
                ),
            ),
        )


async def _as_they_are(requests: Sequence[CreateRequest], _: int) -> Sequence[CreateRequest]:
    return requests
