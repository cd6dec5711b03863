"""How long, and how many, records of idempotency keys a single process keeps."""

from __future__ import annotations

from verl_agent_env.cluster.idempotency import IdempotencyRecord
from verl_agent_env.cluster.memory.idempotency import MemoryIdempotencyRecords


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(number: int) -> IdempotencyRecord:
    return IdempotencyRecord("f", str(number))


async def test_a_record_is_kept_for_its_time() -> None:
    clock = Clock()
    records = MemoryIdempotencyRecords(10.0, 10_000, clock)
    await records.claim("k", record(1))
    clock.now = 9.0
    assert await records.claim("k", record(2)) == record(1)
    clock.now = 10.0
    assert await records.claim("k", record(3)) == record(3)


async def test_records_are_bounded_the_oldest_going_first() -> None:
    records = MemoryIdempotencyRecords(10.0, 10 * 512, Clock())
    for number in range(100):
        await records.claim(str(number), record(number))
    assert len(records._kept) == 10
    assert await records.claim("99", record(0)) == record(99)
    assert await records.claim("89", record(0)) == record(0)


async def test_one_record_is_kept_in_any_case() -> None:
    records = MemoryIdempotencyRecords(10.0, 1, Clock())
    await records.claim("k", record(1))
    assert await records.claim("k", record(2)) == record(1)
