"""What returns often is one token, and text stays what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'verl-agent-env[verl-cpu]'"
)

if TYPE_CHECKING:
    from verl_agent_env.integrations.verl.tiny.tokenizer import Conversation

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "go", "description": "Go.", "parameters": {}}}
]
TASK = "Walk to the goal.\n\n"


def conversation(start: str, *turns: tuple[str, str]) -> Conversation:
    from verl_agent_env.integrations.verl.tiny.tokenizer import Conversation

    messages: list[Any] = [{"role": "user", "content": TASK + start}]
    for said, shown in turns:
        messages += [{"role": "assistant", "content": said}, {"role": "tool", "content": shown}]
    return Conversation(messages, TOOLS)


def test_cells_answers_and_the_task_are_one_token_each() -> None:
    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer, phrases_of

    conversations = [
        conversation("a1P a2F", ("<call>east</call>", "a1F a2P")),
        conversation("a1P a2H", ("<call>west</call>", "a1P a2H")),
    ]
    phrases = phrases_of(conversations, ["[ \\n]?a[12][PFH]"])
    assert {TASK, "a1P", " a2F", " a2H", " a2P", "<call>east</call>", "<call>west</call>"} <= set(phrases)
    tokenizer = byte_tokenizer(phrases)
    for phrase in phrases:
        assert len(tokenizer.encode(phrase)) == 1, phrase
    text = tokenizer.apply_chat_template(conversations[0].messages, tools=TOOLS, tokenize=False)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # System header, tools, end, newline; user header, task, two cells, end, newline; answer header, answer, end,
    # newline; tool header, two cells, end of the tool's answer, end, newline.
    assert len(tokenizer.encode(text)) == 4 + 6 + 4 + 6


def test_many_different_answers_share_what_they_have_in_common() -> None:
    from verl_agent_env.integrations.verl.tiny.tokenizer import phrases_of

    conversations = [
        conversation(f"{n}", (f'<call>{{"sum": "{n} + 1"}}</call>', "no")) for n in range(10, 99)
    ]
    phrases = phrases_of(conversations, [])
    assert '<call>{"sum": "' in phrases
    assert ' + 1"}</call>' in phrases
    assert not any("57" in phrase for phrase in phrases)


def test_patterns_count_in_answers_too() -> None:
    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer, phrases_of

    conversations = [conversation(f"{n}", (f"<call>{n} + {119 - n}</call>", "no")) for n in range(20, 99)]
    phrases = phrases_of(conversations, [" [-+] ", "\\d\\d"])
    assert {" + ", "21", "99", "57"} <= set(phrases)
    # The common beginning, a number, an operator, a number, the common end.
    assert len(byte_tokenizer(phrases).encode("<call>57 + 62</call>")) == 5


def test_any_text_comes_back_unchanged() -> None:
    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer

    text = "√ déjà vu\t<|im_start|>\n 你好"
    tokenizer = byte_tokenizer(["a phrase"])
    assert tokenizer.decode(tokenizer.encode(text)) == text
