"""Several scorers of one answer: the reward is the weighted sum, each is a part of it, and the first decides success."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.judge_server import scores_of, serving_judge
from verl_agent_env.envs.model_endpoints import ModelEndpoint, use_endpoints
from verl_agent_env.envs.scorers import parse_scorer
from verl_agent_env.errors import EndpointUnavailableError

PARTS = {
    "right": {"scorer": {"type": "numeric", "answer": 4}},
    "form": {
        "scorer": {"type": "regex", "pattern": "<answer>.*</answer>", "extract": "whole"},
        "weight": 0.25,
    },
}
JUDGED = {
    **PARTS,
    "style": {
        "scorer": {
            "type": "judge",
            "endpoint": "judge",
            "criteria": [{"name": "short", "description": "Is it short?"}],
        },
        "weight": 0.5,
    },
}


def test_parts_sum_to_the_reward() -> None:
    scorer = parse_scorer({"type": "weighted", "parts": PARTS})
    assert scorer.assess("<answer>4</answer>") == (1.25, {"right": 1.0, "form": 0.25}, True)
    assert scorer.assess("<answer>5</answer>") == (0.25, {"right": 0.0, "form": 0.25}, False)
    assert scorer.score("It is 5.") == 0.0
    assert not scorer.waits


async def test_judge_is_one_of_them() -> None:
    with serving_judge(lambda question: scores_of(question, short=4)) as judge:
        use_endpoints(
            {"judge": ModelEndpoint(name="judge", base_url=judge.base_url, model="m", max_attempts=1)}
        )
        try:
            scorer = parse_scorer({"type": "weighted", "parts": JUDGED})
            assert scorer.waits
            found = await scorer.assess_async("<answer>4</answer>")
            assert found == (1.45, {"right": 1.0, "form": 0.25, "style": 0.2}, True)
            judge.trouble = 500
            with pytest.raises(EndpointUnavailableError):
                await scorer.assess_async("<answer>4</answer>")
        finally:
            use_endpoints(None)


def test_it_is_not_made_of_its_kind() -> None:
    nested = {"type": "weighted", "parts": {"a": {"scorer": {"type": "weighted", "parts": PARTS}}}}
    with pytest.raises(ValidationError):
        parse_scorer(nested)
    with pytest.raises(ValidationError):
        parse_scorer({"type": "weighted", "parts": {}})
