"""The single-turn chat: one answer, scored by whatever the arguments name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

from verl_agent_env.envs.scorer_registry import ScoreContext, register_scorer, unregister_scorer
from verl_agent_env.envs.scorers import ScorerError
from verl_agent_env.envs.single_turn_chat import SingleTurnChatEnv
from verl_agent_env.errors import EpisodeEndedError, InvalidEnvArgumentsError

HISTORY = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 × 7?"}]
EXACT = {"type": "exact_match", "answer": "forty-two"}


def answered(action: Any, **kwargs: Any) -> tuple[Any, ...]:
    env = SingleTurnChatEnv(chat_history=HISTORY, **kwargs)
    env.reset(seed=0)
    return env.step(action)


@pytest.fixture
def length_scorer() -> Iterator[str]:
    @register_scorer("tests/length")
    def score(answer: str, context: ScoreContext, arguments: Mapping[str, Any]) -> float:
        return float(len(answer) + len(context.chat_history)) / float(arguments["by"])

    yield "tests/length"
    unregister_scorer("tests/length")


def test_gymnasium_accepts_it() -> None:
    check_env(SingleTurnChatEnv(), skip_render_check=True)


def test_the_observation_is_the_history_and_then_the_prompt() -> None:
    observation, _ = SingleTurnChatEnv(chat_history=HISTORY, task_prompt="In words.").reset(seed=0)
    assert observation == [*HISTORY, {"role": "user", "content": "In words."}]


def test_without_a_prompt_the_observation_is_the_history_alone() -> None:
    observation, _ = SingleTurnChatEnv(chat_history=HISTORY).reset(seed=0)
    assert observation == HISTORY
    assert observation[0] is not HISTORY[0]


def test_an_empty_conversation_still_asks_for_something() -> None:
    observation, _ = SingleTurnChatEnv().reset(seed=0)
    assert observation[0]["role"] == "user"
    assert observation[0]["content"]


def test_the_default_scorer_gives_nothing() -> None:
    _, reward, terminated, truncated, info = answered("forty-two")
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)


@pytest.mark.parametrize(
    "action",
    [
        "forty-two",
        {"role": "assistant", "content": "forty-two"},
        {"role": "assistant", "content": [{"type": "text", "text": "forty-two"}]},
        [{"role": "assistant", "content": "forty-two"}],
        "<think>seven sixes</think><answer>forty-two</answer>",
    ],
)
def test_an_answer_counts_in_every_form(action: Any) -> None:
    _, reward, terminated, _, info = answered(action, scorer=EXACT)
    assert (reward, terminated, info["success"], info["action_is_valid"]) == (1.0, True, True, True)


@pytest.mark.parametrize(
    ("scorer", "right", "wrong"),
    [
        (EXACT, "forty-two", "forty-three"),
        ({"type": "numeric", "answer": 42}, "It is \\boxed{42}", "It is 43"),
        ({"type": "regex", "pattern": "^forty.two$"}, "forty two", "four"),
    ],
)
def test_each_scorer_tells_right_from_wrong(scorer: dict[str, Any], right: str, wrong: str) -> None:
    assert answered(right, scorer=scorer)[1] == 1.0
    assert answered(wrong, scorer=scorer)[1] == 0.0


def test_a_registered_callable_scores_with_its_arguments_and_the_history(length_scorer: str) -> None:
    scorer = {"type": "callable", "name": length_scorer, "arguments": {"by": 10}}
    _, reward, *_, info = answered("12345678", scorer=scorer)
    assert reward == 1.0
    assert info["success"] is True


def test_a_callable_that_fails_raises_without_telling_the_answer(length_scorer: str) -> None:
    with pytest.raises(ScorerError) as caught:
        answered("x", scorer={"type": "callable", "name": length_scorer, "arguments": {}})
    assert length_scorer in str(caught.value)


@pytest.mark.parametrize("action", ["", None, 5, {"role": "assistant", "content": None}, []])
def test_no_answer_ends_the_episode_as_an_invalid_action(action: Any) -> None:
    _, reward, terminated, _, info = answered(action, scorer=EXACT, invalid_action_reward=-1.0)
    assert (reward, terminated, info["action_is_valid"], info["success"]) == (-1.0, True, False, False)


def test_there_is_only_one_turn() -> None:
    env = SingleTurnChatEnv()
    env.reset(seed=0)
    env.step("hello")
    with pytest.raises(EpisodeEndedError):
        env.step("again")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"chat_history": [{"role": "nobody", "content": "x"}]},
        {"chat_history": [{"role": "user"}]},
        {"scorer": {"type": "callable", "name": "not/registered"}},
        {"scorer": {"type": "regex", "pattern": "("}},
        {"scorer": {"type": "unknown"}},
    ],
)
def test_unfit_arguments_are_refused_and_not_repeated(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        SingleTurnChatEnv(**kwargs)
    assert caught.value.errors


def test_the_reference_is_in_no_error_and_no_result() -> None:
    secret = "the-secret-reference"
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        SingleTurnChatEnv(scorer={"type": "exact_match", "answer": secret, "extra": 1})
    assert secret not in str(caught.value.to_problem())
    assert secret not in str(answered("wrong", scorer={"type": "exact_match", "answer": secret}))


def test_solution_is_the_reference_of_an_exact_match() -> None:
    env = SingleTurnChatEnv(scorer=EXACT)
    env.reset(seed=0)
    solution = env.solution()
    assert solution is not None
    assert env.step(solution[0])[1] == 1.0
    assert SingleTurnChatEnv().solution() is None
