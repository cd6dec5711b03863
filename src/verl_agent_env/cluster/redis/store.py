"""The store in Redis: shared by workers of any number of machines."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import uuid
from collections.abc import Collection, Mapping, Sequence

from verl_agent_env.cluster.redis import scripts
from verl_agent_env.cluster.redis.client import PubSubListener, RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.store import (
    ENDED_MEMORY_S,
    ClusterMap,
    Heartbeat,
    MapChanges,
    WorkerRecord,
    check_slots,
    token_of,
)
from verl_agent_env.errors import (
    EventLogsDifferError,
    GenerationChangedError,
    NameTakenError,
    SlotsDifferError,
    WorkerNotAliveError,
)
from verl_agent_env.wire.suspicions import MAX_SUSPICIONS, Suspicion

_ENDED_MS = int(ENDED_MEMORY_S * 1000)


class RedisStore:
    """:class:`~verl_agent_env.cluster.store.Store` in Redis 6.2 or later.

    Connections are opened when needed, and opened again after an outage.

    Raises:
        ValueError: The URL is malformed; the message shows the form, and never a password.
    """

    def __init__(
        self,
        url: str,
        keys: Keys | None = None,
        limits: RedisLimits | None = None,
        logs: Sequence[str] | None = (),
    ) -> None:
        """Create a store that connects when it is called.

        Args:
            url: Of Redis.
            keys: Names of the data set's keys.
            limits: Of each call.
            logs: Addresses of the Redis that keep the event logs, if this one does not: a data set of other logs is
                refused. None for whoever only reads the map, and creates no data set.
        """
        self._logs = None if logs is None else "".join(f" {where}" for where in logs)
        self._keys = keys or Keys()
        self._client = RedisClient(url, limits or RedisLimits(), self._keys)
        self._notices = PubSubListener(self._client, self._keys.version)

    @property
    def where(self) -> str:
        """URL without the password, for messages."""
        return self._client.where

    async def generation(self) -> str:
        return (await self.read_map()).generation

    async def heartbeat(self, record: WorkerRecord, ttl_s: float) -> Heartbeat:
        keys, incarnation = self._keys, record.incarnation
        answer = await self._client.run(
            scripts.HEARTBEAT,
            [
                keys.generation,
                keys.version,
                keys.changes,
                keys.owners,
                keys.names,
                keys.expiries,
                keys.lease(incarnation),
                keys.ended(incarnation),
                keys.num_slots_kept,
            ],
            [
                keys.lease_prefix,
                keys.ended_prefix,
                _ENDED_MS,
                self._new_generation(),
                max(1, round(ttl_s * 1000)),
                incarnation,
                record.name,
                record.supervisor,
                record.shape,
                record.address,
                record.to_json(),
                keys.num_slots,
            ],
        )
        match answer:
            case ["ok", generation, version]:
                self._check_logs(generation)
                return Heartbeat(generation, int(version))
            case ["taken", address]:
                raise NameTakenError(record.name, address)
            case ["slots", found]:
                raise SlotsDifferError(keys.num_slots, int(found))
            case _:
                raise WorkerNotAliveError(incarnation, "ended")

    async def leave(self, incarnation: str) -> None:
        keys = self._keys
        await self._client.run(
            scripts.LEAVE,
            [keys.version, keys.changes, keys.owners, keys.names, keys.expiries],
            [keys.lease_prefix, keys.ended_prefix, _ENDED_MS, incarnation],
        )

    async def claim(
        self, incarnation: str, slots: Collection[int], *, generation: str | None = None
    ) -> dict[int, str]:
        check_slots(slots, self._keys.num_slots)
        keys, wanted = self._keys, list(slots)
        answer = await self._client.run(
            scripts.CLAIM,
            [
                keys.generation,
                keys.version,
                keys.changes,
                keys.owners,
                keys.lease(incarnation),
                keys.ended(incarnation),
            ],
            [
                keys.lease_prefix,
                generation or "",
                incarnation,
                token_of(uuid.uuid4().hex, incarnation),
                *map(keys.field, wanted),
            ],
        )
        match answer:
            case ["ok", granted]:
                return {slot: token for slot, token in zip(wanted, granted, strict=True) if token}
            case ["generation", found]:
                raise GenerationChangedError(generation or "", found)
            case _:
                raise WorkerNotAliveError(incarnation, answer[0])

    async def hand_off(self, moves: Mapping[str, Mapping[int, str]]) -> dict[int, str]:
        keys, nonce = self._keys, uuid.uuid4().hex
        new_tokens = {receiver: token_of(nonce, receiver, was_handed=True) for receiver in moves}
        arguments: list[str | int] = []
        for receiver, tokens in moves.items():
            check_slots(tokens, keys.num_slots)
            arguments += new_tokens[receiver], len(tokens)
            arguments += itertools.chain(*((keys.field(slot), token) for slot, token in tokens.items()))
        moved = await self._client.run(
            scripts.HAND_OFF,
            [keys.version, keys.changes, keys.owners, *map(keys.lease, moves)],
            arguments,
        )
        wanted = [(slot, receiver) for receiver, tokens in moves.items() for slot in tokens]
        return {
            slot: new_tokens[receiver] for (slot, receiver), done in zip(wanted, moved, strict=True) if done
        }

    async def suspect(self, suspicions: Collection[Suspicion], cleared: Collection[str] = ()) -> None:
        arguments: list[str | int | bytes] = [MAX_SUSPICIONS, len(cleared), *cleared]
        for suspicion in suspicions:
            arguments += suspicion.key, round(suspicion.lasts_s * 1000), suspicion.to_json()
        keys = self._keys
        await self._client.run(scripts.SUSPECT, [keys.version, keys.changes, keys.suspicions], arguments)

    async def read_map(self, known: ClusterMap | None = None) -> ClusterMap:
        keys = self._keys
        answer = await self._client.run(
            scripts.MAP,
            [
                keys.generation,
                keys.version,
                keys.changes,
                keys.owners,
                keys.names,
                keys.expiries,
                keys.suspicions,
                keys.num_slots_kept,
            ],
            [
                keys.lease_prefix,
                self._new_generation(),
                *(("", "") if known is None else (known.generation, known.version)),
            ],
        )
        generation, version, is_change, owners, records, gone, suspicions, num_slots = answer
        self._check_logs(generation)
        workers = [WorkerRecord.from_json(record) for record in records]
        suspected = [
            dataclasses.replace(Suspicion.from_json(text), lasts_s=int(left_ms) / 1000)
            for left_ms, text in zip(suspicions[::2], suspicions[1::2], strict=True)
        ]
        changes = MapChanges(
            generation or "",
            int(version or 0),
            [(keys.slots_in(slots), token) for token, slots in zip(owners[::2], owners[1::2], strict=True)],
            {**dict.fromkeys(gone), **{worker.incarnation: worker for worker in workers}},
            {suspicion.key: suspicion for suspicion in suspected},
            int(num_slots),
        )
        return changes.applied_to(known if is_change else None)

    async def map_version(self) -> int:
        async def ask() -> int:
            return int(await self._client.redis.get(self._keys.version) or 0)

        return await self._client.call(ask)

    async def advance(self, version: int) -> None:
        await self._client.run(scripts.ADVANCE, [self._keys.version, self._keys.changes], [version])

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while True:
            noticed = self._notices.next()
            present = await self.map_version()
            left_s = end - loop.time()
            if present != version or left_s <= 0:
                return present
            await _wait(noticed, min(left_s, self._client.limits.poll_s))

    def _new_generation(self) -> str:
        """Make an id for the data set, in case that there is none; empty for whoever only reads."""
        return "" if self._logs is None else f"{uuid.uuid4().hex}{self._logs}"

    def _check_logs(self, generation: str) -> None:
        if self._logs is not None:
            found = "".join(generation.partition(" ")[1:])
            if found != self._logs:
                raise EventLogsDifferError(self.where, found=found.strip(), given=self._logs.strip())

    async def aclose(self) -> None:
        await self._notices.aclose()
        await self._client.aclose()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
