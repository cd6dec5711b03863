"""The single-turn chat: one answer, scored by whatever the arguments name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

from verl_agent_env.envs.checker.malformed import malformed_actions
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


def test_the_default_scorer_gives_nothing_and_judges_nothing() -> None:
    _, reward, terminated, truncated, info = answered("forty-two")
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, None)


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


# --- the conversation -------------------------------------------------------------------------------------------


def test_the_system_prompt_comes_first() -> None:
    env = SingleTurnChatEnv(chat_history=HISTORY[1:], system_prompt="Be kind.", task_prompt="Go on.")
    observation, _ = env.reset(seed=0)
    assert [message["role"] for message in observation] == ["system", "user", "user"]
    assert observation[0]["content"] == "Be kind."


def test_two_system_prompts_are_refused() -> None:
    with pytest.raises(InvalidEnvArgumentsError):
        SingleTurnChatEnv(chat_history=HISTORY, system_prompt="Be kind.")


def test_the_task_prompt_can_be_left_out_and_something_still_stands_there() -> None:
    observation, _ = SingleTurnChatEnv(task_prompt="Go on.", include_task_prompt=False).reset(seed=0)
    assert observation == [{"role": "user", "content": ""}]


def test_a_history_may_hold_tool_calls_and_their_answers() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    history = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    observation, _ = SingleTurnChatEnv(chat_history=history).reset(seed=0)
    assert SingleTurnChatEnv.observation_space.contains(observation)
    assert observation[0]["tool_calls"] == [call]


def test_what_a_caller_does_to_an_observation_stays_with_the_caller() -> None:
    env = SingleTurnChatEnv(chat_history=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
    observation, _ = env.reset(seed=0)
    observation[0]["content"][0]["text"] = "changed"
    assert env.reset(seed=0)[0][0]["content"][0]["text"] == "hi"


@pytest.mark.parametrize(
    "kwargs",
    [
        {"chat_history": [{"role": "user", "content": "x" * (1 << 20)}]},
        {"chat_history": [{"role": "user", "content": "x"}] * 1001},
        {"chat_history": [{"role": "tool", "content": "x"}]},
        {"chat_history": [{"role": "user", "content": "\ud800"}]},
        {"chat_history": [{"role": "user", "content": "x", "big": 1 << 80}]},
        {"task_prompt": "\ud800"},
        {"max_steps": 2},
    ],
)
def test_a_conversation_that_cannot_be_sent_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidEnvArgumentsError):
        SingleTurnChatEnv(**kwargs)


# --- answers ----------------------------------------------------------------------------------------------------


def test_tool_calls_are_answered_and_the_text_beside_them_counts() -> None:
    call = {"id": "c7", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    action = {"role": "assistant", "content": "forty-two", "tool_calls": [call]}
    observation, reward, *_ = answered(action, scorer=EXACT)
    assert reward == 1.0
    assert [message.get("tool_call_id") for message in observation] == ["c7", None]


def test_every_malformed_action_ends_the_episode_with_a_valid_observation() -> None:
    for description, action in malformed_actions("move"):
        observation, reward, terminated, truncated, _ = answered(action, scorer=EXACT)
        assert SingleTurnChatEnv.observation_space.contains(observation), description
        assert (reward, terminated, truncated) == (0.0, True, False), description


@pytest.mark.parametrize(
    ("scorer", "threshold", "text", "success"),
    [
        ({**EXACT, "reward": -1.0, "wrong_reward": -2.0}, None, "forty-two", True),
        ({**EXACT, "reward": -1.0, "wrong_reward": 0.0}, None, "other", False),
        ({**EXACT, "reward": 0.0}, None, "forty-two", False),
        ({**EXACT, "reward": 0.5}, 0.75, "forty-two", False),
        ({"type": "none"}, 0.0, "anything", True),
    ],
)
def test_success_is_a_right_answer_or_what_the_threshold_says(
    scorer: dict[str, Any], threshold: float | None, text: str, success: bool
) -> None:
    assert answered(text, scorer=scorer, success_threshold=threshold)[4]["success"] is success


def test_an_episode_whose_scorer_failed_takes_another_answer(length_scorer: str) -> None:
    env = SingleTurnChatEnv(scorer={"type": "callable", "name": length_scorer, "arguments": {"by": 0}})
    env.reset(seed=0)
    before = env.snapshot()
    with pytest.raises(ScorerError):
        env.step("x")
    assert env.snapshot() == before
    assert not env.ended


def test_secrets_are_references_that_the_conversation_does_not_show() -> None:
    def secrets(scorer: dict[str, Any]) -> list[str]:
        env = SingleTurnChatEnv(task_prompt="Is it seven or eight?", scorer=scorer)
        env.reset(seed=0)
        return list(env.secrets())

    assert secrets({"type": "exact_match", "answer": ["nineteen", "seven", "no"]}) == ["nineteen"]
    assert secrets({"type": "regex", "pattern": "^nine$"}) == ["^nine$"]
    assert secrets({"type": "numeric", "answer": 12345}) == ["12345"]
    assert secrets({"type": "none"}) == []


def test_secrets_of_a_callable_are_the_texts_of_its_arguments(length_scorer: str) -> None:
    arguments = {"by": 1, "truth": ["nineteen", {"also": "twenty"}]}
    env = SingleTurnChatEnv(scorer={"type": "callable", "name": length_scorer, "arguments": arguments})
    env.reset(seed=0)
    assert list(env.secrets()) == ["nineteen", "twenty"]


def test_a_drawing_shows_the_conversation_and_not_the_reference() -> None:
    env = SingleTurnChatEnv(render_mode="ansi", chat_history=HISTORY, scorer=EXACT)
    env.reset(seed=0)
    assert env.render() == "system: Be brief.\n\nuser: What is 6 × 7?"


def test_a_restored_episode_ends_like_the_one_before() -> None:
    env = SingleTurnChatEnv(chat_history=HISTORY, scorer=EXACT)
    env.reset(seed=5)
    twin = SingleTurnChatEnv(chat_history=HISTORY, scorer=EXACT)
    twin.restore(env.snapshot())
    assert twin.step("forty-two") == env.step("forty-two")
    assert twin.ended
