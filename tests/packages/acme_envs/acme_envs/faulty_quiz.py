"""FaultyQuiz: a question of one turn with one fault of choice, for the checker to find. It is no entry point."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from verl_agent_env.envs.base import ChatEnv, EnvArguments, Execution
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import user_message
from verl_agent_env.types import Action, Content, Info, Observation


class FaultyQuizArguments(EnvArguments):
    """Keyword arguments of FaultyQuiz."""

    max_steps: int = Field(default=1, ge=1, le=1)
    fault: Literal["none", "wrong_solution", "pays_junk", "slow"] = "none"
    """What is wrong with it."""


class FaultyQuizEnv(ChatEnv):
    """A question that is broken in one way."""

    env_name = "acme/faulty_quiz-v0"
    Arguments: ClassVar[type[EnvArguments]] = FaultyQuizArguments
    execution: ClassVar[Execution] = "inline"
    arguments: FaultyQuizArguments

    def task_prompt_text(self) -> str:
        return "Say the number."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self._number = self.rng.randrange(1000)
        if self.arguments.fault == "slow":
            end = time.process_time() + 0.01
            while time.process_time() < end:
                pass

    def observe(self) -> Content:
        return f"It comes before {self._number + 1}."

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        self._require_running()
        text = self.read_action(action).text.strip()
        is_right = text == str(self._number)
        self._steps += 1
        paid = 0.1 if self.arguments.fault == "pays_junk" and text else float(is_right)
        outcome = Outcome(terminated=True, success=is_right)
        return self._finish([user_message("Thank you.")], paid, outcome, bool(text), bool(text))

    def solution(self) -> list[Action] | None:
        wrong = self.arguments.fault == "wrong_solution"
        return [str(self._number + wrong)]

    def dump_state(self) -> Any:
        return self._number

    def load_state(self, state: Any) -> None:
        self._number = state
