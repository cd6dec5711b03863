"""Byte tokenizers with tokens for frequent phrases.

A model of some hundred thousand parameters needs one token for a cell of a map or a whole tool call; spelt out, it learns
neither to read nor to write them in a short training.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from verl_agent_env.types import Message

END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"
ANSWER_HEADER = "<|im_start|>assistant\n"
SPECIAL = (
    PADDING,
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string %}{{ content }}{% else %}{% for part in content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif -%}
{%- endmacro -%}
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ text(messages[0].content) }}
{% endif %}<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ text(messages[0].content) }}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}<|im_start|>{{ message.role }}
{{ text(message.content) }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{{ text(message.content) }}{% for call in message.tool_calls or [] %}<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user
{% endif %}<tool_response>
{{ text(message.content) }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Chat template like Qwen's: tools in the system message, their answers in user messages."""

_SCAFFOLD = (
    "<|im_start|>system\n",
    "<|im_start|>user\n",
    ANSWER_HEADER,
    "<|im_start|>user\n<tool_response>\n",
    "\n</tool_response>",
)
_FEW_ANSWERS = 64


@dataclass(frozen=True, slots=True)
class Conversation:
    """A demonstrated episode."""

    messages: list[Message]
    tools: list[dict[str, Any]]


def byte_tokenizer(phrases: Iterable[str] = ()) -> Any:
    """Create a tokenizer with a token for each byte, each of :data:`SPECIAL`, and each phrase."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    inner.add_tokens([AddedToken(text, special=False, normalized=False) for text in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def phrases_of(conversations: Sequence[Conversation], patterns: Iterable[str]) -> list[str]:
    """Choose phrases for tokens: the scaffold of a conversation, common beginnings, the answers, and matches of ``patterns``
    in all that is said.

    Args:
        conversations: Conversations of one environment.
        patterns: Regular expressions.
    """
    spoken = [message for conversation in conversations for message in conversation.messages]
    answers = sorted({str(message["content"]) for message in spoken if message["role"] == "assistant"})
    texts = {str(message["content"]) for message in spoken if message["role"] != "system"}
    first = sorted({str(conversation.messages[0]["content"]) for conversation in conversations})
    phrases = [*_SCAFFOLD, _tools_text(conversations[0])]
    in_common = _common_start(first)
    task = in_common[: in_common.rfind("\n") + 1]
    phrases.append(task)
    if len(answers) <= _FEW_ANSWERS:
        phrases += answers
    else:
        backwards = _common_start([answer[::-1] for answer in answers])
        phrases += [_common_start(answers), backwards[::-1]]
    expression = re.compile("|".join(patterns)) if patterns else None
    if expression is not None:
        phrases += sorted({found for text in texts for found in expression.findall(text.removeprefix(task))})
    # A phrase of one character is a byte anyway.
    return list(dict.fromkeys(phrase for phrase in phrases if len(phrase) > 1))


def _tools_text(conversation: Conversation) -> str:
    """Return the tools as they are in the system message."""
    message = {"role": "user", "content": ""}
    rendered: str = byte_tokenizer().apply_chat_template([message], tools=conversation.tools, tokenize=False)
    return rendered.removeprefix("<|im_start|>system\n").partition(END_OF_TURN)[0]


def _common_start(texts: Sequence[str]) -> str:
    alike = itertools.takewhile(lambda signs: len(set(signs)) == 1, zip(*texts, strict=False))
    return "".join(signs[0] for signs in alike)
