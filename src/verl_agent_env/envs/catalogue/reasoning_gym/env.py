"""One task of Reasoning Gym: a question, an answer, and the score that the package gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.adapter import CatalogueEnv, adapter_class
from verl_agent_env.envs.catalogue.reasoning_gym.arguments import TaskArguments, arguments_of
from verl_agent_env.envs.catalogue.reasoning_gym.scoring import score_of
from verl_agent_env.envs.catalogue.reasoning_gym.tasks import GymTask, Item, load_task
from verl_agent_env.envs.one_answer_env import OneAnswerEnv
from verl_agent_env.envs.scorers.extraction import extract_answer
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import ParsedAction
from verl_agent_env.messages.reading import strip_thoughts
from verl_agent_env.types import Action, Content

_PROMPT = (
    "Answer the question. Think first, then put the final answer alone between <answer> and </answer>, in exactly the form "
    "that the question asks for."
)
_MIN_SECRET_CHARS = 8
_OTHER_ARGUMENTS_FACTOR = 20.0
"""Of the measured costs: what a task may cost whose configuration is not the default one."""
_NOT_INLINE_MS = 100.0


class ReasoningGymEnv(OneAnswerEnv, CatalogueEnv):
    """Answer one question of a task of Reasoning Gym.

    With equal configuration and seed the question is that of ``reasoning_gym.create_dataset(task, seed=seed, size=1)[0]``.

    ## Action Space

    Any assistant message: what stands in its last ``<answer>``, else in its last ``\\boxed{}``, else its whole text is the
    answer; thoughts are left out. There are no tools.

    ## Observation

    The question. After the answer: that the episode is over; never the solution.

    ## Rewards

    The score that the package gives the answer, from 0 to 1. An answer that scores no more than an empty one or a
    meaningless word does gets 0, and so does one that the package fails at.

    ## Episode End

    Terminated after one answer; ``success`` in the info if it scores 1.

    ## Arguments

    See :class:`TaskArguments`.
    """

    Arguments: ClassVar[type[EnvArguments]] = TaskArguments
    no_answer: ClassVar[str] = "No answer was found."
    closing: ClassVar[str] = "The answer was taken. The episode is over."
    task: ClassVar[GymTask]
    arguments: TaskArguments

    __slots__ = ("_item",)

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        measured = super().cost_ms(arguments)
        if isinstance(arguments, TaskArguments) and not arguments.is_default:
            return max(_NOT_INLINE_MS, _OTHER_ARGUMENTS_FACTOR * measured)
        return measured

    def task_prompt_text(self) -> str:
        return _PROMPT

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        super().begin_episode(options)
        self._item: Item | None = self.arguments.item(self.episode_seed)

    def observe(self) -> Content:
        return str(self.item["question"])

    @property
    def item(self) -> Item:
        """The package's item: ``question``, ``answer`` and ``metadata``."""
        if self._item is None:
            self._item = self.arguments.item(self.episode_seed)
        return self._item

    def answer_in(self, parsed: ParsedAction) -> str:
        return extract_answer(strip_thoughts(parsed.text), "auto") or ""

    def score(self, parsed: ParsedAction) -> Outcome:
        reward = score_of(self.task, self.arguments.dataset, self.item, self.answer_in(parsed))
        return Outcome(None, reward, terminated=True, success=reward == 1.0)

    def secrets(self) -> Sequence[str]:
        """The answer, unless it is short or part of the question."""
        answer = self.item["answer"]
        is_secret = isinstance(answer, str) and len(answer) >= _MIN_SECRET_CHARS
        return (answer,) if is_secret and answer not in self.item["question"] else ()

    def solution(self) -> list[Action] | None:
        """The package's answer; ``None`` where it has none, or one that it does not give the full score."""
        answer = self.item["answer"]
        if self.ended or not isinstance(answer, str):
            return None
        if score_of(self.task, self.arguments.dataset, self.item, answer) < 1.0:
            return None
        return [{"role": "assistant", "content": f"<answer>{answer}</answer>"}]

    def load_state(self, state: Any) -> None:
        super().load_state(state)
        self._item = None


def make_class(short: str, spec: EnvSpec) -> type[ReasoningGymEnv]:
    """The class of the task of this name."""
    task = load_task(short)
    return adapter_class(ReasoningGymEnv, spec, task=task, Arguments=arguments_of(task))
