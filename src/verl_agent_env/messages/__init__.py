"""Chat messages and tool calls: what models write, read in every form that they write it in."""

from verl_agent_env.messages.actions import (
    MAX_CALLS_PER_TURN,
    ParsedAction,
    parse_action,
    read_single_call,
    reading_of,
)
from verl_agent_env.messages.anthropic import AnthropicPrompt, from_anthropic, to_anthropic
from verl_agent_env.messages.calls import ToolCall
from verl_agent_env.messages.content import content_text, image_part, text_part, tool_message, user_message
from verl_agent_env.messages.conversation import assistant_message, message_of_text, sendable, written_text
from verl_agent_env.messages.reading import FORMATS, ActionFormat, stated_answers
from verl_agent_env.messages.tools import Tool, action_schema

__all__ = [
    "FORMATS",
    "MAX_CALLS_PER_TURN",
    "ActionFormat",
    "AnthropicPrompt",
    "ParsedAction",
    "Tool",
    "ToolCall",
    "action_schema",
    "assistant_message",
    "content_text",
    "from_anthropic",
    "image_part",
    "message_of_text",
    "parse_action",
    "read_single_call",
    "reading_of",
    "sendable",
    "stated_answers",
    "text_part",
    "to_anthropic",
    "tool_message",
    "user_message",
    "written_text",
]
