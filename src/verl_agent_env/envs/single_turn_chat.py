"""Single-turn chat: one answer to a given conversation, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from verl_agent_env.envs.base import ChatEnv, EnvArguments, Execution
from verl_agent_env.envs.scorer_registry import ScoreContext
from verl_agent_env.envs.scorers import AnyScorer, ExactMatchScorer, MatchingScorer, NoScorer
from verl_agent_env.envs.spaces import is_message
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import parse_action, user_message
from verl_agent_env.types import Action, Info, Message, Observation

MAX_MESSAGES = 1_000
_FULL_REWARD = 1.0
_DEFAULT_PROMPT = "Answer in one message."
_ENDED = "The conversation has ended."
_SHORTEST_SECRET = 4


class SingleTurnChatArguments(EnvArguments):
    """Keyword arguments of the single-turn chat."""

    max_steps: int = Field(default=1, ge=1, le=1)
    """There is one turn."""
    chat_history: list[Message] = Field(default_factory=list, max_length=MAX_MESSAGES)
    """The conversation so far: messages with a ``role`` and a ``content``."""
    scorer: AnyScorer = NoScorer()
    """What the answer is worth: ``{"type": "exact_match", "answer": "42"}``, ``numeric``, ``regex``, ``callable``;
    ``none`` gives 0."""

    @field_validator("chat_history")
    @classmethod
    def _are_messages(cls, messages: list[Message]) -> list[Message]:
        for number, message in enumerate(messages):
            if not is_message(message):
                raise ValueError(f"message {number} is no chat message: it needs a role and a content")
        return messages


class SingleTurnChatEnv(ChatEnv):
    """Answer a conversation with one message, which a scorer judges.

    ## Action Space

    Any assistant message, or its text; there are no tools.

    ## Observation

    The conversation so far, and ``task_prompt`` as the last user message if one is given.

    ## Rewards

    What ``scorer`` gives; 0 without one.

    ## Episode End

    Terminated after one message. ``success`` in the info: the scorer gave its full reward.

    ## Arguments

    See :class:`SingleTurnChatArguments`.
    """

    env_name = "verl_env/single_turn_chat-v0"
    Arguments: ClassVar[type[EnvArguments]] = SingleTurnChatArguments
    execution: ClassVar[Execution] = "inline"
    arguments: SingleTurnChatArguments

    __slots__ = ()

    def task_prompt_text(self) -> str:
        return _DEFAULT_PROMPT

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "the single-turn chat takes no options"))

    def first_observation(self) -> Observation:
        """The conversation, copied, and the task prompt after it; the default prompt if there is nothing else."""
        arguments = self.arguments
        observation = [dict(message) for message in arguments.chat_history]
        if not observation or (arguments.task_prompt is not None and arguments.include_task_prompt):
            observation.append(user_message(self.task_prompt()))
        return observation

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Score the answer and end the episode; see :meth:`ChatEnv.step`.

        Raises:
            EpisodeNotStartedError, EpisodeEndedError: ``reset`` comes first.
            ScorerError: A registered callable failed.
        """
        self._require_running()
        answer = parse_action(action)
        context = ScoreContext(self.arguments.chat_history, self.episode_seed)
        reward = self.arguments.scorer.score(answer.text, context)
        self._steps += 1
        valid = answer.fault is None and bool(answer.text)
        if not valid:
            reward += self.arguments.invalid_action_reward
        outcome = Outcome(reward=reward, terminated=True, success=valid and self._is_full(reward))
        return self._finish([user_message(_ENDED)], reward, outcome, valid, valid)

    def solution(self) -> list[Action] | None:
        """The reference answer of an exact-match scorer, as a message; ``None`` for other scorers."""
        scorer = self.arguments.scorer
        if not isinstance(scorer, ExactMatchScorer):
            return None
        reference = scorer.answer if isinstance(scorer.answer, str) else scorer.answer[0]
        return [{"role": "assistant", "content": reference}]

    def secrets(self) -> Sequence[str]:
        reference = getattr(self.arguments.scorer, "answer", ())
        texts = (reference,) if isinstance(reference, str | int | float) else reference
        # A reference of a character or two stands in any text by chance.
        return [str(text) for text in texts if len(str(text)) >= _SHORTEST_SECRET]

    def dump_state(self) -> Any:
        return None

    def load_state(self, state: Any) -> None:
        if state is not None:
            raise ValueError("the single-turn chat has no state")

    def _is_full(self, reward: float) -> bool:
        scorer = self.arguments.scorer
        if isinstance(scorer, NoScorer):
            return False
        return reward >= (scorer.reward if isinstance(scorer, MatchingScorer) else _FULL_REWARD)
