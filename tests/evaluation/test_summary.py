"""Figures of evaluations."""

from __future__ import annotations

import pytest

from verl_agent_env.evaluation import EvaluatedEpisode, Summary
from verl_agent_env.evaluation.summary import wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # As tables of Wilson's interval have them.
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_interval_is_wilsons(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_episodes_that_were_not_played_count_for_nothing_but_their_number() -> None:
    summary = Summary.of(
        [
            EvaluatedEpisode(0, "success", 1.0, 4, 1, 100, 10),
            EvaluatedEpisode(1, "failure", 0.0, 2, 0, 50, 5),
            EvaluatedEpisode(2, "out_of_turns", 0.5, 6, 2, 50, 5),
            EvaluatedEpisode(3, "not_played", prompt_tokens=7, error="gone"),
        ]
    )
    assert (summary.played, summary.not_played, summary.successes, summary.out_of_turns) == (3, 1, 1, 1)
    assert summary.success_rate == pytest.approx(1 / 3)
    assert summary.mean_reward == pytest.approx(0.5)
    assert summary.mean_turns == pytest.approx(4)
    assert summary.invalid_share == pytest.approx(3 / 12)
    assert (summary.prompt_tokens, summary.completion_tokens) == (207, 20)
