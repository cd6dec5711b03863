"""A holder's own view of its lease ends before the store's, whatever happens to messages and clocks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from verl_agent_env.cluster.leases import LocalLease, boot_time
from verl_agent_env.cluster.timing import Timing

TIMING = Timing(5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_lease_counts_from_before_the_renewal_was_sent() -> None:
    clock = Clock()
    lease = LocalLease(TIMING, clock)
    assert not lease.valid
    sent_at = lease.sending()
    clock.now += 3
    lease.renewed(sent_at)
    clock.now = sent_at + TIMING.valid_s - 0.01
    assert lease.valid
    clock.now += 0.02
    assert not lease.valid


def test_late_answer_does_not_shorten_the_lease() -> None:
    clock = Clock()
    lease = LocalLease(TIMING, clock)
    early = lease.sending()
    clock.now += 1
    lease.renewed(lease.sending())
    lease.renewed(early)
    clock.now += TIMING.valid_s - 0.01
    assert lease.valid


def test_lost_lease_is_revived_by_a_later_renewal_only() -> None:
    clock = Clock()
    lease = LocalLease(TIMING, clock)
    early = lease.sending()
    clock.now += 1
    lease.expire()
    lease.renewed(early)
    assert not lease.valid
    clock.now += 1
    lease.renewed(lease.sending())
    assert lease.valid


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=10),
    st.floats(0, 10),
    st.floats(0.85, 1.0),
)
def test_holder_never_outlives_the_store(
    renewals: list[tuple[float, float]], later_s: float, slowness: float
) -> None:
    """Renewals take their time on the way there and back; the holder's clock runs up to 15 % slow."""
    ttl_s, true_now = 5.0, 0.0
    lease = LocalLease(Timing(ttl_s), lambda: true_now * slowness)
    store_until = 0.0
    for there_s, back_s in renewals:
        sent_at = lease.sending()
        true_now += there_s
        store_until = max(store_until, true_now + ttl_s)
        true_now += back_s
        lease.renewed(sent_at)
    true_now += later_s
    assert not lease.valid or true_now < store_until


def test_boot_time_goes_on() -> None:
    first = boot_time()
    assert boot_time() >= first > 0
