"""What the model wrote, as an action for the environment and as a message of the conversation."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_agent_env.integrations.verl.errors import TrainingSetupError
from verl_agent_env.integrations.verl.rollout.template_messages import for_template
from verl_agent_env.messages.content import well_formed
from verl_agent_env.types import Action, Message

if TYPE_CHECKING:
    from verl.experimental.agent_loop.tool_parser import FunctionCall


class AnswerReader:
    """Reads answers with one of verl's parsers of tool calls."""

    def __init__(self, parser_name: str | None, tokenizer: Any) -> None:
        """A reader.

        Args:
            parser_name: verl's name of the format; without one, an answer is only text.
            tokenizer: Turns tokens into text.

        Raises:
            TrainingSetupError: verl has no such parser.
        """
        self._tokenizer = tokenizer
        self._parser = None
        if parser_name is not None:
            try:
                self._parser = ToolParser.get_tool_parser(parser_name, tokenizer)
            except ValueError:
                raise TrainingSetupError(
                    f"verl has no parser of tool calls named '{parser_name}': set data.env.tool_format or "
                    "actor_rollout_ref.rollout.multi_turn.format, for Qwen to hermes."
                ) from None

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens after which an answer is to be read."""
        return list(self._parser.stop_token_ids) if self._parser is not None else []

    async def read(
        self, token_ids: list[int], turn: int, tools: list[dict[str, Any]]
    ) -> tuple[Action, Message]:
        """The action in an answer, and the message that stands for it in the conversation.

        What the parser cannot read stays text: the environment tells the model what is wrong with it.
        """
        calls: list[FunctionCall] = []
        content = ""
        if self._parser is not None:
            content, calls = await self._parser.extract_tool_calls(token_ids, _schemas(orjson.dumps(tools)))
        if not calls:
            text = well_formed(self._tokenizer.decode(token_ids, skip_special_tokens=True))
            return text, {"role": "assistant", "content": text}
        written = []
        for number, call in enumerate(calls):
            function = {"name": well_formed(call.name), "arguments": well_formed(call.arguments)}
            call_id = well_formed(call.tool_call_id) if call.tool_call_id else f"call_{turn}_{number}"
            written.append({"id": call_id, "type": "function", "function": function})
        content = well_formed(content)
        action = {"role": "assistant", "content": content, "tool_calls": written}
        return action, for_template(action)


@functools.lru_cache(maxsize=256)
def _schemas(tools: bytes) -> list[OpenAIFunctionToolSchema] | None:
    """The tools as verl's parsers take them; ``None`` if their schemas are beyond verl's."""
    try:
        return [OpenAIFunctionToolSchema.model_validate(tool) for tool in orjson.loads(tools)]
    except ValidationError:
        return None
