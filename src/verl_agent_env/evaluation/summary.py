"""Statistics of many episodes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from verl_agent_env.evaluation.episodes import EvaluatedEpisode

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Summary:
    """Statistics of a model; except for :attr:`not_played` and :attr:`refused`, over the episodes that were played."""

    played: int
    not_played: int
    """Episodes in which the server or the endpoint failed, or the conversation was refused."""
    refused: int
    """Those of :attr:`not_played` in which the endpoint or the model refused the conversation."""
    successes: int
    out_of_turns: int
    out_of_context: int
    """Episodes whose conversation became too long for the model; they count as failures."""
    success_low: float
    success_high: float
    """Upper end of Wilson's 95 % interval of the success rate."""
    mean_reward: float
    mean_turns: float
    invalid_share: float
    """Share of the turns whose action was invalid."""
    prompt_tokens: int
    completion_tokens: int
    cut_off_share: float
    """Share of the turns whose completion was cut off by the limit of tokens."""

    @property
    def success_rate(self) -> float:
        """Successes divided by the episodes played; 0 without any."""
        return self.successes / self.played if self.played else 0.0

    @classmethod
    def of(cls, episodes: Sequence[EvaluatedEpisode]) -> Summary:
        """Compute the statistics of these episodes."""
        played = [episode for episode in episodes if episode.outcome != "not_played"]
        outcomes = Counter(episode.outcome for episode in episodes)
        turns = sum(episode.turns for episode in played)
        low, high = wilson(outcomes["success"], len(played))
        return cls(
            played=len(played),
            not_played=outcomes["not_played"],
            refused=sum(episode.is_refused for episode in episodes),
            successes=outcomes["success"],
            out_of_turns=outcomes["out_of_turns"],
            out_of_context=outcomes["out_of_context"],
            success_low=low,
            success_high=high,
            mean_reward=_share(sum(episode.reward for episode in played), len(played)),
            mean_turns=_share(turns, len(played)),
            invalid_share=_share(sum(episode.invalid_actions for episode in played), turns),
            prompt_tokens=sum(episode.prompt_tokens for episode in episodes),
            completion_tokens=sum(episode.completion_tokens for episode in episodes),
            cut_off_share=_share(sum(episode.cut_off for episode in played), turns),
        )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's score interval of 95 %; (0, 1) without any trial.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not trials:
        return 0.0, 1.0
    rate, square = successes / trials, _Z95 * _Z95
    centre = rate + square / (2 * trials)
    reach = _Z95 * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials))
    whole = 1 + square / trials
    return max(0.0, (centre - reach) / whole), min(1.0, (centre + reach) / whole)


def _share(total: float, count: int) -> float:
    return total / count if count else 0.0
