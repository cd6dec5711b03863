"""What SmolLM2-135M-Instruct really wrote is read as a person reads it.

``smollm2.jsonl`` holds answers of the model, most of them collected by ``examples/eval_real.py``, others to the same questions
asked directly. ``read`` is the action that a person saw in the answer:
a move, an equation, a final number, or ``null`` where there is none; it was written by hand, and not by the reader. The texts
are outputs of a model under the Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0), taken as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.scorers import parse_scorer
from verl_agent_env.messages import content_text

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "frozen_lake": {"size": 4, "max_steps": 8},
    "sokoban": {"dim_room": [6, 6], "num_boxes": 1, "max_steps": 8},
    "countdown": {"num_numbers": 3, "target_range": [1, 50], "max_attempts": 2, "max_steps": 4},
}
"""As they were played; of single-turn chat the final number is read, as a scorer does."""


class Answer(NamedTuple):
    """One line."""

    env: str
    seed: int
    answer: str
    read: str | None


ANSWERS = [
    Answer(**orjson.loads(line))
    for line in (Path(__file__).with_name("smollm2.jsonl")).read_bytes().splitlines()
]


def begun(answer: Answer) -> ChatEnv:
    env = default_registry().kind(answer.env).env_class(**ENVIRONMENTS[answer.env])
    assert isinstance(env, ChatEnv)
    env.reset(seed=answer.seed)
    return env


def outcome(env: ChatEnv, action: Any) -> tuple[Any, ...]:
    observation, *rest = env.step(action)
    return content_text(observation[-1]["content"]), *rest


def call_of(answer: Answer) -> dict[str, Any]:
    """The tool call that a person would make of it."""
    arguments = {"equation": answer.read} if answer.env == "countdown" else {}
    name = "test_equation" if answer.env == "countdown" else answer.read
    function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    call = {"id": "call_0", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def is_number(answer: str, number: str) -> bool:
    """Whether a scorer takes ``number`` for the final answer of a text."""
    scorer = parse_scorer({"type": "numeric", "answer": number})
    return scorer.score(answer) == 1.0


@pytest.mark.parametrize("answer", ANSWERS, ids=[f"{n}-{each.env}" for n, each in enumerate(ANSWERS)])
def test_an_answer_is_read_as_a_person_reads_it(answer: Answer) -> None:
    if answer.env == "single_turn_chat":
        numbers = set(re.findall(r"\d+", answer.answer))
        assert [number for number in numbers if is_number(answer.answer, number)] == (
            [] if answer.read is None else [answer.read]
        )
        return
    taken = outcome(begun(answer), answer.answer)
    if answer.read is None:
        assert taken[-1]["action_is_valid"] is False
    else:
        assert taken == outcome(begun(answer), call_of(answer))


def test_the_corpus_has_answers_of_each_environment_that_are_actions_and_that_are_none() -> None:
    assert {(each.env, each.read is None) for each in ANSWERS} == {
        (env, is_none) for env in (*ENVIRONMENTS, "single_turn_chat") for is_none in (True, False)
    }
