"""Batch calls over many workers: split by owner, sent side by side, put together again in the order of the request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import orjson

from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.engine import CreateRequest
from verl_agent_env.engine.batches import Batches, Closed
from verl_agent_env.errors import (
    MovedError,
    ShuttingDownError,
    StoreUnavailableError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)
from verl_agent_env.server.forwarding import PATIENCE_S
from verl_agent_env.server.peers import Peers
from verl_agent_env.types import slot_of
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer
from verl_agent_env.wire.parts import (
    decode_closed_part,
    decode_created_part,
    decode_reset_part,
    decode_step_part,
)

T = TypeVar("T")

_Split: TypeAlias = "Callable[[list[int], Collection[str]], dict[str | None, list[int]]]"
"""Positions and the addresses that refused before, to positions by address; None for those that nobody owns."""

INTERNAL_PREFIX = "/internal/batch/"
_PAUSE_S = 0.05


@dataclass(frozen=True)
class _Work:
    """One batch call, in a form of which any part can be carried out anywhere."""

    name: str
    here: Callable[[list[int]], Awaitable[Sequence[Any]]]
    """Carries out the items at these positions on this worker."""
    body: Callable[[list[int]], dict[str, Any]]
    """What to send to another worker for the items at these positions."""
    decode: Callable[[bytes], Sequence[Any]]
    """Reads its answer."""


class ShardedBatches:
    """The batch calls on a cluster, from the worker that was asked.

    A worker that cannot be reached fails its own items only. Items whose slot is changing hands are sent again, until
    they meet the owner or patience ends.
    """

    def __init__(
        self, local: Batches, table: SlotTable, peers: Peers, refresh: Callable[[], Awaitable[None]]
    ) -> None:
        """Batch calls that ask ``table`` who owns a slot.

        Args:
            local: Those of this worker.
            table: Where every slot lives.
            peers: The other workers.
            refresh: Brings the table up to date after a worker said that it is not.
        """
        self._local = local
        self._table = table
        self._peers = peers
        self._refresh = refresh

    async def create(
        self, requests: Sequence[CreateRequest]
    ) -> list[tuple[str, ResetAnswer] | VerlAgentEnvError]:
        """Make an environment for each request, on all workers alike.

        Shares are contiguous: neighbours in the batch, such as the samples of one group, stay together.
        """
        work = _Work(
            "initialize",
            lambda positions: self._local.create(_pick(requests, positions)),
            lambda positions: _columns_of(_pick(requests, positions)),
            decode_created_part,
        )
        return await self._carry_out(work, len(requests), self._shares)

    async def reset(
        self,
        env_ids: Sequence[str],
        seeds: Sequence[int | None] | None,
        options: Sequence[dict[str, Any] | None] | None,
    ) -> list[ResetAnswer | VerlAgentEnvError]:
        """Reset each environment where it lives."""
        work = _Work(
            "reset",
            lambda positions: self._local.reset(
                _pick(env_ids, positions), _picked(seeds, positions), _picked(options, positions)
            ),
            lambda positions: {
                "env_ids": _pick(env_ids, positions),
                "seeds": _picked(seeds, positions),
                "options": _picked(options, positions),
            },
            decode_reset_part,
        )
        return await self._carry_out(work, len(env_ids), self._by_owner(env_ids))

    async def step(
        self, env_ids: Sequence[str], actions: Sequence[Any], seqs: Sequence[int | None] | None
    ) -> list[StepAnswer | VerlAgentEnvError]:
        """Step each environment where it lives."""
        work = _Work(
            "step",
            lambda positions: self._local.step(
                _pick(env_ids, positions), _pick(actions, positions), _picked(seqs, positions)
            ),
            lambda positions: {
                "env_ids": _pick(env_ids, positions),
                "actions": _pick(actions, positions),
                "seqs": _picked(seqs, positions),
            },
            decode_step_part,
        )
        return await self._carry_out(work, len(env_ids), self._by_owner(env_ids))

    async def close(self, env_ids: Sequence[str]) -> Closed:
        """Close each environment where it lives."""

        async def here(positions: list[int]) -> list[VerlAgentEnvError | None]:
            results: list[VerlAgentEnvError | None] = [None] * len(positions)
            for index, error in (await self._local.close(_pick(env_ids, positions))).errors:
                results[index] = error
            return results

        work = _Work(
            "close",
            here,
            lambda positions: {"env_ids": _pick(env_ids, positions)},
            decode_closed_part,
        )
        results = await self._carry_out(work, len(env_ids), self._by_owner(env_ids))
        errors = [(i, result) for i, result in enumerate(results) if result is not None]
        return Closed(len(env_ids) - len(errors), errors)

    async def close_run(self, run_id: str) -> Closed:
        """Close all environments of a run, on every worker.

        Raises:
            WorkerUnreachableError: One of the workers does not answer; the others have closed theirs.
        """
        body = orjson.dumps({"run_id": run_id})

        async def there(address: str) -> Closed:
            answer = await self._peers.call(address, "POST", f"{INTERNAL_PREFIX}close", body)
            results = decode_closed_part(answer.body)
            return Closed(sum(result is None for result in results), [])

        addresses = set(self._table.slots_by_address()) | set(self._table.peers)
        addresses.discard(self._table.address)
        outcomes = await asyncio.gather(
            self._local.close_run(run_id), *map(there, addresses), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return Closed(sum(outcome.closed for outcome in outcomes if isinstance(outcome, Closed)), [])

    # --- split, send, merge ---------------------------------------------------------------------------------

    async def _carry_out(
        self,
        work: _Work,
        size: int,
        split: _Split,
    ) -> list[Any]:
        """Results in order of position."""
        results: list[Any] = [None] * size
        positions = list(range(size))
        end = time.monotonic() + PATIENCE_S
        refused: set[str] = set()
        while positions:
            parts = split(positions, refused)
            # The others first: they are at work while this worker does its own part.
            order = sorted(parts, key=lambda address: address == self._table.address)
            calls = (self._part(work, address, parts[address]) for address in order)
            outcomes = await asyncio.gather(*calls)
            again: list[int] = []
            for address, outcome in zip(order, outcomes, strict=True):
                for position, result in zip(parts[address], outcome, strict=True):
                    results[position] = result
                missed = [
                    p for p, result in zip(parts[address], outcome, strict=True) if _was_not_run(result)
                ]
                if missed and address is not None:
                    refused.add(address)
                again += missed
            if not again or time.monotonic() > end:
                break
            positions = sorted(again)
            await self._refresh()
            await self._table.wait_for_change(_PAUSE_S)
        return results

    async def _part(self, work: _Work, address: str | None, positions: list[int]) -> Sequence[Any]:
        """The results of one worker's part; an error in place of each if that worker fails."""
        if address is None:
            return [StoreUnavailableError("", "no worker owns the slot at present")] * len(positions)
        try:
            if address == self._table.address:
                return await work.here(positions)
            body = orjson.dumps(work.body(positions), option=orjson.OPT_NON_STR_KEYS)
            answer = await self._peers.call(address, "POST", INTERNAL_PREFIX + work.name, body)
            results = work.decode(answer.body)
        except VerlAgentEnvError as error:
            return [error] * len(positions)
        if len(results) != len(positions):
            raise RuntimeError(f"{address} answered {len(results)} items where {len(positions)} were asked")
        return results

    def _by_owner(self, env_ids: Sequence[str]) -> _Split:
        slots = [slot_of(env_id) for env_id in env_ids]

        def split(positions: list[int], _: Collection[str]) -> dict[str | None, list[int]]:
            parts: dict[str | None, list[int]] = {}
            address_of, owners = self._table.address_of, {}
            for position in positions:
                slot = slots[position]
                if slot not in owners:
                    owners[slot] = address_of(slot)
                    if owners[slot] == self._table.address and not self._table.owns(slot):
                        # Its lease is over: nobody may act for the slot.
                        owners[slot] = None
                parts.setdefault(owners[slot], []).append(position)
            return parts

        return split

    def _shares(self, positions: list[int], refused: Collection[str]) -> dict[str | None, list[int]]:
        """Equal shares for all workers that take new environments and have not refused this batch already."""
        takers = [address for address in self._table.peers if address not in refused]
        if self._table.can_create:
            takers.append(self._table.address)
        if not takers:
            return {None: positions}
        shares: dict[str | None, list[int]] = {}
        for index, address in enumerate(sorted(takers)):
            share = positions[
                len(positions) * index // len(takers) : len(positions) * (index + 1) // len(takers)
            ]
            if share:
                shares[address] = share
        return shares


def _was_not_run(result: Any) -> bool:
    """Whether the item was certainly not carried out for a reason that passes: it may be sent again."""
    return isinstance(result, MovedError | StoreUnavailableError | ShuttingDownError) or (
        isinstance(result, WorkerUnreachableError) and not result.may_have_run
    )


def _columns_of(requests: Sequence[CreateRequest]) -> dict[str, Any]:
    """What the internal call takes; as of the API, but a name and arguments for each, and one run for all."""
    first = requests[0]
    shared_kwargs = all(request.env_kwargs is first.env_kwargs for request in requests)
    same_name = all(request.env_name == first.env_name for request in requests)
    return {
        "env_name": first.env_name if same_name else None,
        "env_names": None if same_name else [request.env_name for request in requests],
        "env_kwargs": first.env_kwargs if shared_kwargs else [request.env_kwargs for request in requests],
        "seeds": [request.seed for request in requests],
        "run_id": first.run_id,
        "ttl_s": first.ttl_s,
    }


def _pick(values: Sequence[T], positions: list[int]) -> list[T]:
    return [values[position] for position in positions]


def _picked(values: Sequence[T] | None, positions: list[int]) -> list[T] | None:
    return None if values is None else _pick(values, positions)
