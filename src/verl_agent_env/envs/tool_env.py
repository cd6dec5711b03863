"""Reading of actions: which of its tools an environment was called with, and what is wrong with a call."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from verl_agent_env.envs.arguments import EnvArguments
from verl_agent_env.envs.episode_env import EpisodeEnv
from verl_agent_env.envs.renamed_hooks import former_name
from verl_agent_env.envs.spaces import ActionSpace, action_space_for
from verl_agent_env.messages import (
    FORMATS,
    ParsedAction,
    Tool,
    ToolCall,
    parse_action,
    reading_of,
    stated_answers,
)
from verl_agent_env.types import Action

_AROUND_WORDS = " \t\n\xa0\u200b\u200c\u200d\u2060\ufeff.,;:!\"'`*()[]{}<>#-"


class ToolEnv(EpisodeEnv):
    """Tools of an environment, and the actions that call them."""

    tools: ClassVar[tuple[Tool, ...]] = ()
    """Tools that the model may call."""
    word_aliases: ClassVar[Mapping[str, str]] = {}
    """Names of tools by lower-case words that name them in plain text."""
    action_space = ActionSpace((), parallel=False)

    _tools_by_name: ClassVar[dict[str, Tool]] = {}
    _plain_tools: ClassVar[frozenset[str]] = frozenset()

    __slots__ = ("arguments",)

    arguments: EnvArguments

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls._tools_by_name = {tool.name: tool for tool in cls.tools}
        cls._plain_tools = _plain(cls.tools)
        cls.action_space = action_space_for(cls.tools, parallel=False)

    def read_action(self, action: object) -> ParsedAction:
        """Read an action as :meth:`step` does, without carrying it out."""
        arguments = self.arguments
        max_calls = max(arguments.max_calls_per_turn, arguments.max_actions_per_turn)
        return parse_action(action, self._tools_by_name, arguments.action_format, self._steps, max_calls)

    def checked_calls(self, parsed: ParsedAction) -> list[ToolCall]:
        """Return the calls of a read action, each with the fault that makes it invalid: at least one, or none if the text is the answer."""
        return [call._replace(fault=self._fault_of(call)) for call in self._calls_of(parsed)]

    def reading_of(self, action: object) -> dict[str, Any]:
        """Tell how an action is read, as JSON values: form, thought, calls, problem, and its place in a text."""
        parsed = self.read_action(action)
        return reading_of(parsed, self.checked_calls(parsed))

    def calls_of(self, action: Action) -> list[ToolCall]:
        """Read an action into its calls, at least one, without carrying them out.

        Invalid calls keep their id and their fault only, valid ones the arguments that the tool's schema permits.
        ``step(action)`` is ``take_turn(calls_of(action))``, so the calls suffice to replay a step.
        """
        return [self._as_carried_out(call) for call in self.checked_calls(self.read_action(action))]

    def _as_carried_out(self, call: ToolCall) -> ToolCall:
        if call.fault is not None:
            return ToolCall("", {}, call.id, call.fault)
        tool = self._tools_by_name.get(call.name) if call.arguments else None
        return call if tool is None else call._replace(arguments=tool.permitted(call.arguments))

    def call_from_word(self, word: str) -> ToolCall:
        """Translate a move written in plain text into a call; a call with a fault if it is no move.

        A sentence that states an answer counts as the move that it names: "The answer is up." Depends on the word alone:
        a replayed episode does not translate again.
        """
        tool = self._tool_of(word)
        if tool is None:
            # The whole stated answer has to be the move: "left to the user's choice" is none.
            tool = next((self._tool_of(answer) for answer in stated_answers(word, self._tool_of)[:1]), None)
        if tool is not None:
            return ToolCall(tool, {})
        shown = word if len(word) <= 40 else word[:40] + "…"
        return ToolCall("", {}, None, f"'{shown}' is not an action.")

    def call_from_marked_word(self, word: str) -> ToolCall:
        """Translate a move that the text marks as its answer; by default as :meth:`call_from_word`."""
        return self.call_from_word(word)

    def _set_tools(self, tools: tuple[Tool, ...]) -> None:
        """Replace the tools of the class by tools of this instance."""
        self.tools = tools  # type: ignore[misc]
        self._tools_by_name = {tool.name: tool for tool in tools}  # type: ignore[misc]
        self._plain_tools = _plain(tools)  # type: ignore[misc]
        self.action_space = action_space_for(tools, parallel=self.allow_parallel_tool_calls)

    def _calls_of(self, parsed: ParsedAction) -> list[ToolCall]:
        if parsed.fault is not None:
            return [ToolCall("", {}, None, parsed.fault)]
        if parsed.calls:
            return parsed.calls
        # One word beyond the limit suffices for its error message.
        words = parsed.words[: self.arguments.max_actions_per_turn + 1]
        call_from = self.call_from_marked_word if parsed.is_marked else self.call_from_word
        return [call_from(word) for word in words] or [ToolCall("", {}, None, self._no_action())]

    def _no_action(self) -> str:
        formats = self.arguments.action_format
        if formats == "auto":
            return "No action was found."
        names = (formats,) if isinstance(formats, str) else formats
        examples = [each.examples[0] for each in FORMATS if each.name in names]
        return f"No action was found. It is read in forms such as {' or '.join(examples)}."

    def _tool_of(self, word: str) -> str | None:
        """Return the name of the tool that a word names, directly or by an alias."""
        if not word.isascii() or "&" in word:
            word = html.unescape(unicodedata.normalize("NFKC", word))
        name = word.strip(_AROUND_WORDS).casefold().replace(" ", "_").replace("-", "_")
        tool = self.word_aliases.get(name, name)
        return tool if tool in self._tools_by_name else None

    def _fault_of(self, call: ToolCall) -> str | None:
        """Return what makes a call invalid; ``None`` if it is valid."""
        if call.fault is not None:
            return call.fault
        tool = self._tools_by_name.get(call.name)
        return f"There is no tool '{call.name[:64]}'." if tool is None else tool.fault(call.arguments)

    def _tool_hint(self) -> str:
        return f" Available: {', '.join(self._tools_by_name)}." if self._tools_by_name else ""

    @property
    def allow_parallel_tool_calls(self) -> bool:
        """True if one action may hold several tool calls."""
        return self.arguments.max_actions_per_turn > 1

    _offer = former_name("_offer", _set_tools)


def _plain(tools: Sequence[Tool]) -> frozenset[str]:
    """Return the names of the tools that need no argument."""
    return frozenset(tool.name for tool in tools if not tool.parameters.get("required"))
