"""The Python tool's environment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.python_tool.arguments import PythonToolArguments
from verl_agent_env.envs.python_tool.sandbox import SandboxLimits, sandboxes_here
from verl_agent_env.envs.tool_dialogue import ToolDialogueEnv
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import OutsideCallError
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action, Info, Observation

_PYTHON = Tool(
    "python",
    "Run a Python program and see what it prints; the value of its last expression is printed, too. Nothing is kept from one"
    " program to the next. There is no network, and no file can be written.",
    {
        "type": "object",
        "properties": {
            "code": {
                "type": "string",
                "description": "A whole program, such as print(sum(range(10))).",
                "examples": [
                    "print(6 * 7)",
                    "from math import comb\ncomb(10, 3)",
                    "sum(n * n for n in range(10))",
                ],
            }
        },
        "required": ["code"],
        "additionalProperties": False,
    },
)
_BYTES_PER_CHAR = 4
_SIGNALS = 128
_STATUS = "The program ended with status {}."
_SIGNAL = "The program was ended by signal {}."


class PythonToolEnv(ToolDialogueEnv):
    """Answer a question with the help of Python programs, which run in a sandbox.

    For mathematics with code, and other tasks whose answer a scorer knows.

    ## Action Space

    One tool, ``python(code)``. A message without a call is the answer. The calls of one message run one after the other, each in
    a sandbox of its own: nothing is kept from one to the next. Code can import what is installed with the server, NumPy
    for one.

    ## Observation

    At first the system prompt, the chat history and the task prompt as a message of the user, as far as they are
    given. Then what the programs print: output, the value of the last expression, or the exception with the line that
    raised it; and how a program ended that exceeded a limit.

    ## Rewards

    The score of the answer by the ``scorer``; 0 without one, and if the episode is truncated. ``tool_error_reward`` for
    each program that fails or exceeds a limit.

    ## Episode End

    Terminated by a message without a tool call (``success`` in the info when the reward is that of a right answer).
    One without text is an invalid action, scored as an empty answer. Truncated after ``max_steps`` calls.

    The info of a step also holds ``tool_errors``, programs of this step that failed. Outputs are recorded: a cluster keeps
    episodes as a journal, and no program runs a second time when one is recovered.

    ## Sandbox

    bubblewrap (the program ``bwrap`` of the package ``bubblewrap``, on Linux) starts Python with a read-only system, without
    network, other processes, ``/proc``, home or environment variables; a filter of system calls keeps it to one process and
    one thread without sockets. Limits: ``time_limit_s``, ``memory_limit_mb``, ``max_result_chars`` of output, 32 open files, none
    of them written. Where the kernel does not allow that, an episode does not begin, and the error says why. See
    ``docs/security.md``. A worker runs as many sandboxes at a time as the machine has cores; further calls take turns.

    ## Arguments

    See :class:`PythonToolArguments`.
    """

    env_name = "verl_env/python_tool-v0"
    Arguments: ClassVar[type[EnvArguments]] = PythonToolArguments
    tools = (_PYTHON,)
    arguments: PythonToolArguments

    __slots__ = ()

    @classmethod
    def records_effects(cls, arguments: EnvArguments) -> bool:  # noqa: ARG003 - whatever they are
        return True

    async def begin_dialogue(self) -> None:
        if self.is_replaying:
            return
        try:
            await sandboxes_here().require()
        except OutsideCallError as refused:
            raise self.invalid_arguments(
                ([], f"Python cannot be run in a sandbox here: {refused.reason}")
            ) from None

    async def astep(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Run the programs of a message, or score the answer, as :meth:`ChatEnv.step`.

        Raises:
            EpisodeNotStartedError, EpisodeEndedError: No episode is running.
            AtCapacityError: Others have had all sandboxes for too long.
            OutsideCallError: A sandbox could not be started; the step does not count.
            ScorerError: A registered callable failed; the episode continues.
        """
        async with self._place(action):
            return await super().astep(action)

    @asynccontextmanager
    async def _place(self, action: Action) -> AsyncIterator[None]:
        """Hold the place of a sandbox if the action needs one, from before anything is changed."""
        if self.is_replaying or not any(
            self._fault_of(call) is None for call in self.read_action(action).calls
        ):
            yield
            return
        sandboxes = sandboxes_here()
        # An episode may have begun on another machine.
        await sandboxes.require()
        async with sandboxes.place():
            yield

    async def _carry_out_all(self, calls: list[ToolCall]) -> list[Outcome]:
        return [await self._carry_out_numbered(number, call) for number, call in enumerate(calls, 1)]

    async def act_async(self, call: ToolCall) -> Outcome:
        code: str = call.arguments["code"]

        async def run() -> list[Any]:
            arguments = self.arguments
            limits = SandboxLimits(
                arguments.time_limit_s,
                arguments.memory_limit_mb << 20,
                arguments.max_result_chars * _BYTES_PER_CHAR,
            )
            return list(await sandboxes_here().run(code, limits))

        return self._outcome_of_run(*await self.outcome_of(run))

    def _outcome_of_run(self, end: str, output: str, status: int) -> Outcome:
        max_chars = self.arguments.max_result_chars
        shown = output[:max_chars].rstrip()
        if end == "too_long" or len(output) > max_chars:
            notes = [f"The program wrote more than {max_chars} characters, and was ended."]
        elif end == "out_of_time":
            notes = [f"The program took longer than {self.arguments.time_limit_s:g} s, and was ended."]
        elif end == "failed" and status != 1:
            notes = [_STATUS.format(status) if status < _SIGNALS else _SIGNAL.format(status - _SIGNALS)]
        else:
            notes = [] if shown else ["The program printed nothing."]
        content = "\n".join(filter(None, [shown, *notes]))
        if end == "ended":
            return Outcome(content)
        return self.failed_call(content)

    def dump_state(self) -> Any:
        return self.dialogue()

    def load_state(self, state: Any) -> None:
        self.load_dialogue(state)
