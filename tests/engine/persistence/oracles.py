"""Environments that call the outside for each step, and count how often they did."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from verl_agent_env.envs.async_env import AsyncChatEnv
from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.registry import EnvSpec
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import OutsideCallError
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Content

MODULE = "tests.engine.persistence.oracles"
_ASK = Tool(
    "ask",
    "Ask.",
    {"type": "object", "properties": {"about": {"type": "string"}}, "required": ["about"]},
)


class Outside:
    """What is outside: no two of its answers are alike."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_away = False
        self.endings: list[str] = []
        """How environments were let go: ``closed`` for good, or ``handed over``."""

    def answer(self, question: str) -> str:
        """Answer, unless it is away."""
        if self.is_away:
            raise OutsideCallError("it is away")
        self.asked.append(question)
        return f"{question}, answer {len(self.asked)}"


outside = Outside()


class OracleArguments(EnvArguments):
    """Arguments of both."""

    max_actions_per_turn: int = 4
    recorded: bool = True


class Oracle(AsyncChatEnv):
    """Is awaited."""

    env_name = "oracle/async-v0"
    Arguments: ClassVar[type[EnvArguments]] = OracleArguments
    tools = (_ASK,)

    __slots__ = ("_opening",)

    @classmethod
    def records_effects(cls, arguments: EnvArguments) -> bool:
        return isinstance(arguments, OracleArguments) and arguments.recorded

    def task_prompt_text(self) -> str:
        return "Ask."

    def initial_observation(self) -> Content:
        return self._opening

    async def begin_episode_async(self, options: Mapping[str, Any]) -> None:
        self._opening = await self.outcome_of(lambda: self._asked("opening"))

    async def act_async(self, call: ToolCall) -> Outcome:
        about = call.arguments["about"]
        said = await self.outcome_of(lambda: self._asked(about))
        if about == "break":
            raise RuntimeError("told to")
        return Outcome(said)

    async def close_async(self) -> None:
        outside.endings.append("closed")

    async def ahand_over(self) -> None:
        outside.endings.append("handed over")

    async def _asked(self, about: str) -> str:
        await asyncio.sleep(0)
        return outside.answer(about)


class BlockingOracle(ChatEnv):
    """Runs in a thread, though its class says that it runs inline."""

    env_name = "oracle/blocking-v0"
    Arguments: ClassVar[type[EnvArguments]] = OracleArguments
    execution = "inline"
    deterministic = False
    tools = (_ASK,)
    records_effects = Oracle.records_effects

    __slots__ = ("_opening",)

    def task_prompt_text(self) -> str:
        return "Ask."

    def initial_observation(self) -> Content:
        return self._opening

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self._opening = self.outcome_of_blocking(lambda: outside.answer("opening"))

    def act(self, call: ToolCall) -> Outcome:
        about = call.arguments["about"]
        said = self.outcome_of_blocking(lambda: outside.answer(about))
        if about == "break":
            raise RuntimeError("told to")
        return Outcome(said)


class Borrower(ChatEnv):
    """Asks for something before each episode, and does not have it recorded."""

    env_name = "oracle/borrower-v0"
    tools = (Tool("wait", "Wait."),)

    __slots__ = ()

    def task_prompt_text(self) -> str:
        return "Wait."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        outside.answer("for a loan")

    def act(self, call: ToolCall) -> Outcome:
        return Outcome("done")


SPECS = (
    EnvSpec(Oracle.env_name, f"{MODULE}:Oracle"),
    EnvSpec(BlockingOracle.env_name, f"{MODULE}:BlockingOracle"),
)
BORROWER = EnvSpec(Borrower.env_name, f"{MODULE}:Borrower")
