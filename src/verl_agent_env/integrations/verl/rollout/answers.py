"""Reading of a model's answers, as actions for the environment and as messages of the conversation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.template_messages import for_template
from verl_agent_env.messages import ActionFormat, Tool, message_of_text
from verl_agent_env.messages.content import well_formed
from verl_agent_env.messages.reading import FORMAT_NAMES, opened_thought, strip_thoughts, strip_turn_ends
from verl_agent_env.types import Action, Message

if TYPE_CHECKING:
    from verl.experimental.agent_loop.tool_parser import FunctionCall

READ_HERE = frozenset({*FORMAT_NAMES, "gpt-oss", "gemma4", "deepseek_v4"})
"""Names of verl's parsers whose formats the environments' reader knows; it reads all of them, whichever is named."""
PROMPT_TAIL = 64
"""Tokens at the end of a prompt that can open a thought."""


class AnswerReader:
    """Reads answers as the environments read text, so that equal texts are equal actions in a training and elsewhere.

    verl's own parsers also search thoughts, and drop malformed calls. So a parser whose format the environments know only
    defines the tokens that end an answer; another one, registered with verl, reads the text outside thoughts.
    """

    def __init__(self, parser_name: str | None, tokenizer: Any) -> None:
        """Create a reader.

        Args:
            parser_name: verl's name of the format; without one, answers are only text.
            tokenizer: Decodes tokens.

        Raises:
            TrainingSetupError: Neither verl nor the environments' reader knows it.
        """
        self._tokenizer = tokenizer
        self._takes_calls = parser_name is not None
        self._parser: ToolParser | None = None
        self._foreign: ToolParser | None = None
        if parser_name is None:
            return
        try:
            self._parser = ToolParser.get_tool_parser(parser_name, tokenizer)
        except ValueError:
            if parser_name not in READ_HERE:
                raise TrainingSetupError(
                    f"verl has no parser of tool calls named '{parser_name}': set data.env.tool_format or "
                    "actor_rollout_ref.rollout.multi_turn.format, for Qwen to hermes."
                ) from None
        if parser_name not in READ_HERE:
            self._foreign = self._parser

    @property
    def is_foreign(self) -> bool:
        """True if a parser reads the answers that is not known here, and may remember some."""
        return self._foreign is not None

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return list(self._parser.stop_token_ids) if self._parser is not None else []

    async def read(
        self,
        token_ids: Sequence[int],
        turn: int,
        tools: list[dict[str, Any]],
        action_format: ActionFormat = "auto",
        prompt_ids: Sequence[int] = (),
    ) -> tuple[Action, Message]:
        """Return the action in an answer, and its message in the conversation.

        Args:
            token_ids: Tokens of the answer.
            turn: Number of the turn, part of the ids of its calls.
            tools: Tools in OpenAI's schema.
            action_format: Formats that the environment reads.
            prompt_ids: End of the prompt, which may have opened a thought that the answer continues.
        """
        text = self._text_of(token_ids)
        opened = _opened_by(self._tokenizer, self._last_turn(prompt_ids[-PROMPT_TAIL:]))
        said: Message | None = None
        if self._takes_calls and tools:
            said = (
                message_of_text(opened + text, _tools_of(orjson.dumps(tools)), action_format, turn)
                if self._foreign is None
                else await self._parsed(self._foreign, opened + text, turn, tools)
            )
        if said is None:
            return opened + text, {"role": "assistant", "content": text}
        return said, for_template({**said, "content": said["content"].removeprefix(opened)})

    def _text_of(self, token_ids: Sequence[int]) -> str:
        """Decode an answer, with the tokens that mark calls and thoughts, without those that end it."""
        ends = (self._tokenizer.eos_token_id, self._tokenizer.pad_token_id)
        length = len(token_ids)
        while length and token_ids[length - 1] in ends:
            length -= 1
        return strip_turn_ends(self._decode(token_ids[:length]))

    def _last_turn(self, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens after the last turn's end: nothing before it opens a thought for the answer."""
        end, tail = self._tokenizer.eos_token_id, tuple(prompt_ids)
        return tail[len(tail) - tail[::-1].index(end) :] if end in tail else tail

    def _decode(self, token_ids: Sequence[int]) -> str:
        return _decoded(self._tokenizer, token_ids)

    async def _parsed(
        self, parser: ToolParser, text: str, turn: int, tools: list[dict[str, Any]]
    ) -> Message | None:
        """Read the text outside thoughts with a parser of verl; None if it has no calls."""
        spoken = self._tokenizer.encode(strip_thoughts(text), add_special_tokens=False)
        calls: list[FunctionCall]
        content, calls = await parser.extract_tool_calls(spoken, _schemas(orjson.dumps(tools)))
        if not calls:
            return None
        written = []
        for number, call in enumerate(calls):
            function = {"name": well_formed(call.name), "arguments": well_formed(call.arguments)}
            call_id = well_formed(call.tool_call_id) if call.tool_call_id else f"call_{turn}_{number}"
            written.append({"id": call_id, "type": "function", "function": function})
        return {"role": "assistant", "content": well_formed(content), "tool_calls": written}


def _decoded(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return well_formed(tokenizer.decode(list(token_ids), skip_special_tokens=False))


@functools.lru_cache(maxsize=256)
def _opened_by(tokenizer: Any, prompt_ids: tuple[int, ...]) -> str:
    """Return the thought tag that these tokens open; most prompts end alike."""
    return opened_thought(_decoded(tokenizer, prompt_ids))


@functools.lru_cache(maxsize=256)
def _tools_of(tools: bytes) -> Mapping[str, Tool]:
    """Convert tools for the environments' reader, by name."""
    return {tool.name: tool for tool in map(Tool.from_openai, orjson.loads(tools))}


@functools.lru_cache(maxsize=256)
def _schemas(tools: bytes) -> list[OpenAIFunctionToolSchema] | None:
    """Convert tools for verl's parsers; ``None`` if verl does not support their schemas."""
    try:
        return [OpenAIFunctionToolSchema.model_validate(tool) for tool in orjson.loads(tools)]
    except ValidationError:
        return None
