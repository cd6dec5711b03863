"""What was computed of a sequence is found by those that begin with it, and by no others."""

from __future__ import annotations

from verl_agent_env.integrations.verl.cpu.prefix_cache import PrefixCache


def test_the_longest_prefix_is_found() -> None:
    cache: PrefixCache[str] = PrefixCache(8)
    cache.remember([1, 2], "short")
    cache.remember([1, 2, 3, 4], "long")
    assert cache.longest_prefix([1, 2, 3, 4, 5]) == (4, "long")
    assert cache.longest_prefix([1, 2, 3, 9]) == (2, "short")
    assert cache.longest_prefix([2, 1, 3]) == (0, None)


def test_a_sequence_is_no_prefix_of_itself() -> None:
    cache: PrefixCache[str] = PrefixCache(8)
    cache.remember([1, 2, 3], "all")
    assert cache.longest_prefix([1, 2, 3]) == (0, None)
    assert cache.longest_prefix([]) == (0, None)


def test_equal_hashes_do_not_deceive() -> None:
    cache: PrefixCache[str] = PrefixCache(8)
    # Python's hash of -1 is that of -2.
    cache.remember([-1, 5], "other")
    assert cache.longest_prefix([-2, 5, 6]) == (0, None)
    assert cache.longest_prefix([-1, 5, 6]) == (2, "other")


def test_the_longest_unused_is_forgotten_first() -> None:
    cache: PrefixCache[str] = PrefixCache(2)
    cache.remember([1], "a")
    cache.remember([2], "b")
    assert cache.longest_prefix([1, 0]) == (1, "a")
    cache.remember([3], "c")
    assert len(cache) == 2
    assert cache.longest_prefix([2, 0]) == (0, None)
    assert cache.longest_prefix([1, 0]) == (1, "a")
    cache.clear()
    assert cache.longest_prefix([1, 0]) == (0, None)
