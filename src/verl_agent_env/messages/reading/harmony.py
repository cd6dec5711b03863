"""Parser of harmony, the format of gpt-oss: messages with channels, of which ``analysis`` holds thoughts.

``<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>``; a call is a message to
``functions.name``. A message on the channel ``commentary`` without a recipient is an answer only if there is no other.
Servers that drop special tokens return ``analysis…assistantfinal…``.
"""

from __future__ import annotations

import re

from verl_agent_env.messages.reading.values import ValueSpans

Spans = list[tuple[int, int]]

_TOKEN = re.compile(r"<\|(start|channel|message|end|call|return)\|>")
_ANALYSIS = re.compile(r"(?:.*<\|channel\|>)?\s*analysis\b", re.DOTALL)
_RECIPIENT = re.compile(r"\bto=\S")
_RECIPIENT_ALONE = re.compile(r"\s*+to=[^\s<]++\s*+(?=<)")
# The prompt writes it, or a model that makes up what comes next.
_OTHER_AUTHOR = re.compile(r"\s*+(?:user|system|developer|tool)\b|[^<\n]{1,80}?\bto=assistant\b")
_BARE_CHANNEL = re.compile(r"(?:\A|assistant)(analysis|final|commentary)")


def is_written_in(text: str) -> bool:
    """Return true if ``text`` is harmony."""
    return _has_tokens(text) or _is_bare(text)


def split(text: str) -> tuple[Spans, Spans]:
    """Return the spans of visible text and of thoughts; a message with a recipient is visible, its header included."""
    return _split_messages(text) if _has_tokens(text) else _split_bare(text)


def _has_tokens(text: str) -> bool:
    if "<|message|>" not in text and "<|channel|>" not in text:
        return False
    first = _TOKEN.search(text)
    return first is not None and not ValueSpans(text).hold(0, first.start(), first.end())


def _is_bare(text: str) -> bool:
    if text.startswith("commentary to="):
        return True
    # In English a blank follows the word.
    return text.startswith("analysis") and (
        text[8:9].isupper() or "assistantfinal" in text or "assistantcommentary" in text
    )


def _split_messages(text: str) -> tuple[Spans, Spans]:
    visible: Spans = []
    asides: Spans = []
    thoughts: Spans = []
    # The prompt ends within a header, or within a message: the text begins there.
    header: int | None = 0
    content: int | None = 0
    header_text = ""

    def close(end: int, *, opened_by_prompt: bool = False) -> None:
        if content is None:
            return
        if opened_by_prompt or _is_thought(header_text):
            thoughts.append((content, end))
        elif header is not None and _RECIPIENT.search(header_text):
            visible.append((header, end))
        else:
            (asides if "commentary" in header_text else visible).append((content, end))

    in_message = False
    values = ValueSpans(text)
    if _RECIPIENT_ALONE.match(text) is not None:
        content = None
    for number, token in enumerate(_TOKEN.finditer(text)):
        kind = token[1]
        if values.hold(content or 0, token.start(), token.end()):
            continue
        if kind == "message":
            if header is not None and not in_message:
                header_text, content, in_message = text[header : token.start()], token.end(), True
            continue
        close(token.start(), opened_by_prompt=number == 0 and kind == "end")
        if kind == "start" and visible and _OTHER_AUTHOR.match(text, token.end()) is not None:
            content = None
            break
        if content is not None or header is None:
            header = token.start()
        content, in_message = None, False
        if kind != "channel":
            header = token.end()
    close(len(text))
    return _said(text, visible, asides), thoughts


def _is_thought(header: str) -> bool:
    """Return true if a header is that of a thought: on the channel ``analysis``, without a recipient."""
    return _ANALYSIS.match(header) is not None and _RECIPIENT.search(header) is None


def _split_bare(text: str) -> tuple[Spans, Spans]:
    visible: Spans = []
    asides: Spans = []
    thoughts: Spans = []
    channels = list(_BARE_CHANNEL.finditer(text))
    ends = [channel.start() for channel in channels[1:]] + [len(text)]
    for channel, end in zip(channels, ends, strict=True):
        if channel[1] == "analysis":
            thoughts.append((channel.end(), end))
        elif text.startswith(" to=", channel.end()):
            visible.append((channel.start(1), end))
        else:
            (asides if channel[1] == "commentary" else visible).append((channel.end(), end))
    return _said(text, visible, asides), thoughts


def _said(text: str, visible: Spans, asides: Spans) -> Spans:
    return visible if any(text[start:end].strip() for start, end in visible) else asides
