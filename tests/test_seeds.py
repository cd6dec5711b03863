"""Seeds that follow from others."""

from __future__ import annotations

from verl_agent_env.seeds import following_seed


def test_following_seeds_do_not_repeat_and_fit_json() -> None:
    seeds = [7]
    for _ in range(1000):
        seeds.append(following_seed(seeds[-1]))
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**53
