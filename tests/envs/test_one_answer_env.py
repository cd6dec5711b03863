"""Environments of one answer: the answer is scored once and ends the episode."""

from __future__ import annotations

import pytest

from verl_agent_env.envs.one_answer_env import OneAnswerEnv
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import EpisodeEndedError, InvalidEnvArgumentsError
from verl_agent_env.messages import ParsedAction
from verl_agent_env.types import Content


class ShoutEnv(OneAnswerEnv):
    """Pays for an answer in capitals."""

    no_answer = "Nothing was shouted."
    closing = "It was heard."

    __slots__ = ()

    def task_prompt_text(self) -> str:
        return "Shout."

    def observe(self) -> Content:
        return "It is quiet."

    def answer_in(self, parsed: ParsedAction) -> str:
        return parsed.text if parsed.text.isupper() else ""

    def score(self, parsed: ParsedAction) -> Outcome:
        if parsed.text == "FAIL":
            raise RuntimeError("no score")
        return Outcome(None, float(len(self.answer_in(parsed))), terminated=True, success=True)


def test_an_answer_is_scored_and_ends_the_episode() -> None:
    env = ShoutEnv()
    env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step("HEY")
    assert observation == [{"role": "user", "content": "It was heard."}]
    assert (reward, terminated, truncated, info["action_is_valid"]) == (3.0, True, False, True)
    with pytest.raises(EpisodeEndedError):
        env.step("HEY")


def test_a_message_without_an_answer_is_an_invalid_action() -> None:
    env = ShoutEnv(invalid_action_reward=-0.5)
    env.reset(seed=1)
    assert [call.fault for call in env.calls_of("hey")] == ["Nothing was shouted."]
    _, reward, terminated, _, info = env.step("hey")
    assert (reward, terminated, info["action_is_valid"]) == (-0.5, True, False)


def test_an_error_of_the_score_leaves_the_episode_as_it_was() -> None:
    env = ShoutEnv()
    env.reset(seed=1)
    with pytest.raises(RuntimeError, match="no score"):
        env.step("FAIL")
    assert (env.num_steps, env.ended) == (0, False)
    assert env.step("OK")[1] == 2.0


def test_it_takes_no_options_and_has_no_state() -> None:
    env = ShoutEnv()
    with pytest.raises(InvalidEnvArgumentsError):
        env.reset(seed=1, options={"loud": True})
    env.reset(seed=1)
    assert env.dump_state() is None
    with pytest.raises(ValueError, match="no state"):
        env.load_state({"loud": True})
