"""Parser of the responses of chat-completions endpoints: completions and refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from verl_agent_env.types import Message

# How endpoints say that a conversation is too long, as a code or in words: OpenAI, Azure, vLLM, SGLang, llama.cpp, TGI,
# Anthropic's and Gemini's compatible endpoints, LiteLLM, xAI, Cohere, DashScope, Zhipu.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|context.?window|context.{0,20}(?:length|size)"
    r"|(?:prompt|input|request|conversation)[^.]{0,60}(?:too long|too large|exceed)"
    r"|(?:exceed|longer than|greater than|more than)[^.]{0,60}(?:context|maximum.{0,20}tokens|token (?:count|limit))"
    r"|maximum number of tokens|string_above_max_length|too many (?:input |prompt )?tokens|size limit exceeded"
    r"|maximum (?:model|prompt|input|sequence) length|range of input length|reduce the length of"
    r"|tokens[^.]{0,60}must be <=|must have less than \d+ tokens|超长|过长",
    re.IGNORECASE | re.DOTALL,
)
_FILTERED = re.compile(
    r"content.?filter|content.?(?:management.)?policy|ResponsibleAI|safety|moderation|flagged|data_inspection"
    r"|invalid_prompt|prohibited|data.?inspection|inappropriate content|content exists risk|high risk|sensitive|敏感",
    re.IGNORECASE,
)
_MAX_READ_CHARS = 4096
# Other names of OpenAI's reasons: of Gemini, Mistral, Anthropic, Zhipu.
_FINISH_REASONS = {
    **dict.fromkeys(("max_tokens", "model_length", "max_output_tokens"), "length"),
    **dict.fromkeys(
        ("safety", "recitation", "prohibited_content", "blocklist", "spii", "refusal", "sensitive"),
        "content_filter",
    ),
}


class Completion(NamedTuple):
    """One completion of a model."""

    message: Message
    """Message of role ``assistant``, without the reasoning, as it is sent back."""
    prompt_tokens: int
    completion_tokens: int
    """Tokens of the completion; 0 if the endpoint does not report them."""
    finish_reason: str = ""
    """Value from the endpoint; ``length`` if the completion was cut off, ``content_filter`` if it was withheld."""
    reasoning: str = ""
    """Reasoning that the endpoint returns apart from the message."""
    refusal: str = ""
    """Refusal in the model's own words; empty if it did not refuse."""


def read_answer(payload: bytes) -> Completion | None:
    """Read the body of a successful response; ``None`` if it is no chat completion.

    Of several choices the first with a tool call is taken, else the first with content: some endpoints put text and
    calls of one completion into two choices.
    """
    try:
        document = orjson.loads(payload)
        choices = [choice for choice in document["choices"] if isinstance(choice.get("message"), dict)]
        usage = document.get("usage") or {}
        prompt_tokens, completion_tokens = (
            int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")
        )
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, AttributeError):
        return None
    if not choices:
        return None
    choice = _best(choices)
    finish_reason = str(choice.get("finish_reason") or "")
    said = choice["message"]
    content = said.get("content")
    message: Message = {
        "role": "assistant",
        "content": content if isinstance(content, str | list) and content else "",
    }
    if isinstance(said.get("tool_calls"), list) and said["tool_calls"]:
        message["tool_calls"] = said["tool_calls"]
    elif isinstance(said.get("function_call"), dict):
        message["function_call"] = said["function_call"]
    is_silent = not message["content"] and len(message) == 2
    return Completion(
        message,
        prompt_tokens,
        completion_tokens,
        _FINISH_REASONS.get(finish_reason.casefold(), finish_reason),
        _text_of(said.get("reasoning_content")) or _text_of(said.get("reasoning")),
        _text_of(said.get("refusal")) if is_silent else "",
    )


def refusal_of(payload: bytes) -> Literal["context", "filter"] | None:
    """Return why this conversation is refused; ``None`` if the body of the error names no such reason."""
    text = payload[:_MAX_READ_CHARS].decode("utf-8", "replace")
    if _TOO_LONG.search(text):
        return "context"
    return "filter" if _FILTERED.search(text) else None


def _best(choices: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    def acts(choice: Mapping[str, Any]) -> bool:
        return bool(choice["message"].get("tool_calls") or choice["message"].get("function_call"))

    def speaks(choice: Mapping[str, Any]) -> bool:
        return bool(choice["message"].get("content"))

    return next(filter(acts, choices), None) or next(filter(speaks, choices), choices[0])


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""
