"""What is known of idempotency keys, whatever keeps it."""

from __future__ import annotations

import asyncio

from tests.contract.conftest import StoreCase
from verl_agent_env.cluster.idempotency import IdempotencyRecord


async def test_the_first_record_stays(case: StoreCase) -> None:
    first, second = IdempotencyRecord("f1", "n1"), IdempotencyRecord("f2", "n2")
    assert await case.records.claim("k", first) == first
    assert await case.records.claim("k", second) == first
    assert await case.records.claim("k", first) == first
    assert await case.records.claim("l", second) == second


async def test_all_who_claim_at_once_agree(case: StoreCase) -> None:
    claims = [case.records.claim("k", IdempotencyRecord("f", str(number))) for number in range(20)]
    assert len(set(await asyncio.gather(*claims))) == 1
