"""Removal of thoughts from a model's text, and of everything after the end of its turn.

A thought is the text between two thought tags, in any case and with attributes: ``<think>``, ``<thinking>``,
``<reasoning>``, ``[THINK]``, ``◁think▷``, ``<seed:think>`` and others; an element of HTML that says so, as
``<details type="reasoning">``; the text between "Here is my thought process:" and "Here is my response:"; and the
``analysis`` channel of harmony. A tag in code ticks is only a mention; one in a value of a tool call belongs to the value.
Linear in the length of the text; never raises.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from verl_agent_env.messages.reading import harmony
from verl_agent_env.messages.reading.values import ValueSpans

# <seed:think>, <longcat_think>, <inner_thoughts>, <thought_process>, <chain-of-thought>, <internal_reasoning>
_OWN_NAME = r"(?:[\w-]{1,32}?[:_-])?(?:think(?:ing)?|thoughts?|reasoning)(?:[_-][\w-]{1,32})?"
_NAMES = (
    *("reason", "reflection", "self[_-]reflection", "rationale", "analysis", "scratchpad"),
    *("(?:inner|internal)[_-]monologue", "antthinking", "cot", _OWN_NAME),
)
_ELEMENTS = "details|div|section|aside|span|block|content_block|part|step"
# Every branch begins with a character of its own, so that the search leaps from one of them to the next.
_THOUGHT_TAG = re.compile(
    rf"<\s*+(?P<slash>\\?/)?\s*+(?:(?P<name>{'|'.join(_NAMES)})|(?P<element>{_ELEMENTS}))(?=[\s/>])(?P<rest>[^<>]*)>"
    r"|\[(?P<square_slash>/?)THINK(?:ING)?\]|\[unused(?P<unused>1[67])\]"
    r"|◁(?P<triangle_slash>/?)think▷"
    r"|<[|｜](?P<edge>begin_of_thought|end_of_thought|inner_prefix|inner_suffix|unused94|unused95"
    r"|(?:(?:start|begin|end)_|/)?think(?:ing)?(?:_(?:start|begin|end))?)[|｜]>|<(?P<bare_edge>unused9[45])>"
    r"|<(?P<channel>\|channel>thought|channel\|>)",
    re.IGNORECASE,
)
_SAYS_THOUGHT = re.compile(
    rf"(?<![\w-])(?:data-)?(?:type|class)\s*+=\s*+[\"']?(?:{_OWN_NAME})(?=[\"'\s/]|\Z)", re.IGNORECASE
)
"""Attribute of an element that holds a thought, as Open WebUI's ``type="reasoning"``."""
_SUMMARY = re.compile(
    r"\s*+<summary>[^\w<]{0,8}(?:thought for\b|(?:thinking|thoughts?|reasoning)(?: process)?[^\w<]{0,8}</summary>)",
    re.IGNORECASE,
)
"""What folded text is: ``<details><summary>Thought for 3 seconds</summary>``."""
_MARKUP = re.compile(r"[<\[◁]|```tool_output")
_OTHER_MARKUP = ("[", "◁", "```tool_output")
_CLOSING_EDGE = re.compile(r"end_|/|.*(?:_end|suffix|95)\Z")
_HEADING = re.compile(
    r"\s*+(?:#+ |\*\*)?Here(?:['’]s| is| are) my (?:thought process|thinking process|reasoning steps|reasoning):",
    re.IGNORECASE,
)
"""Opening of a thought without tags, of Granite and Apriel."""
_HEADED_ANSWER = re.compile(r"Here(?:['’]s| is) my response:|\[BEGIN FINAL RESPONSE\]", re.IGNORECASE)
# Models mix the words of a family: a thought that <think> opens is also closed by </thinking>.
_THINK_FAMILY = frozenset({"think", "thinking", "thought", "thoughts"})

_TURN_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>"),
    *("<|end_of_turn|>", "<|endofturn|>", "[|endofturn|]", "<|end_of_sentence|>", "<|END_OF_TURN_TOKEN|>"),
    *("<｜end▁of▁sentence｜>", "<end_of_turn>", "<turn|>", "<eos>", "[EOS]", "<seed:eos>", "[e~["),
    *("<|return|>", "<|call|>", "<|user|>", "<|observation|>", "<|system|>", "<|assistant|>", "<|role_end|>"),
    *("<|im_start|>", "<|im_user|>", "<|im_system|>", "<|im_assistant|>", "<|start_header_id|>"),
    *("<|header_start|>", "<|start_of_role|>", "<start_of_turn>", "<|turn>", "<｜User｜>"),
    *("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "[|user|]", "[|system|]", "[|tool|]"),
    *(
        "[INST]",
        "[/INST]",
        "<|pad|>",
        "<pad>",
        "[PAD]",
        "<|fim_pad|>",
        "<|endofprompt|>",
        "<|endofassistant|>",
    ),
    *("<|end_of_solution|>", "<|END_RESPONSE|>", "<|END_TEXT|>", "[END FINAL RESPONSE]", "<end_code>"),
)
_TURN_END = re.compile(
    "|".join(map(re.escape, _TURN_ENDS))
    # A result of a tool, which the model made up.
    + r"|(?<=[\n>}\])])(?P<result><[|｜]?(?:(?:start|begin)_)?(?:tool|tool_call|function)_(?:response|result|output)s?[|｜]?>"
    r"|\[TOOL_RESULTS\]|<[|｜]tool▁outputs?▁begin[|｜]>|<\|START_TOOL_RESULT\|>|```tool_outputs?\b)"
    # Names that may mean anything, except right behind a call.
    r"|</(?:tool_calls?|function_calls?|function|tool|tool_code|code|action)>\s*+"
    r"(?P<observed><(?:observation|information|result|output|response)s?>)"
    # Struck-out text in HTML ends with it too.
    + r"|</s>(?=\s*(?:</?s>|\[INST\]|\Z))"
)
_TURN_BEGIN = re.compile(
    r"(?:\s*+(?:<\|im_start\|>(?:assistant)?|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|begin_of_text\|>"
    r"|<\|header_start\|>assistant<\|header_end\|>|<\|im_assistant\|>(?:assistant)?<\|im_middle\|>|<\|turn>(?:model)?"
    r"|<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>|\[\|assistant\|\]"
    r"|<｜begin▁of▁sentence｜>|<｜Assistant｜>|<\|assistant\|>|<start_of_turn>(?:model)?|<bos>|<s>"
    r"|<\|begin_of_solution\|>|<\|START_RESPONSE\|>|<\|START_TEXT\|>"
    rf"|{'|'.join(map(re.escape, _TURN_ENDS))}|</s>))*+"
)


class VisibleText(NamedTuple):
    """Text without thoughts, and its positions in the original text."""

    text: str
    """Visible text, stripped."""
    thought: str
    """Thoughts, separated by line breaks; empty if there are none."""
    pieces: tuple[tuple[int, int], ...]
    """Start in the original text and length of each part of :attr:`text`."""
    turn: tuple[int, int]
    """Start and end of the model's turn in the original text, thoughts included."""

    def place(self, position: int) -> int:
        """Map a position of :attr:`text` to the original text."""
        if len(self.pieces) == 1:
            return self.pieces[0][0] + position
        begins = []
        length = 0
        for _, size in self.pieces:
            begins.append(length)
            length += size
        piece = max(bisect_right(begins, position) - 1, 0) if begins else 0
        return self.pieces[piece][0] + position - begins[piece] if begins else position


def separate_thoughts(text: str) -> VisibleText:
    """Separate the visible text from the thoughts.

    A closing tag without an opening one closes a thought that the prompt opened, or a nested one: all text up to the last
    such tag is thought. An unclosed thought extends to the end.
    """
    is_harmony = harmony.is_written_in(text)
    if not is_harmony and _MARKUP.search(text) is None and _HEADING.match(text) is None:
        stripped = text.strip()
        pieces = ((text.find(stripped), len(stripped)),) if stripped else ()
        return VisibleText(stripped, "", pieces, (0, len(text)))
    if is_harmony:
        visible, thoughts = harmony.split(text)
        # Its tokens tell the thoughts, so that they stay.
        return _joined(text, _within_turn(text, visible)[0], thoughts, (0, len(text)))
    visible, thoughts = _split(text)
    kept, turn = _within_turn(text, visible)
    return _joined(text, kept, thoughts, turn)


def strip_thoughts(text: str) -> str:
    """Return ``text`` without thoughts, stripped."""
    return separate_thoughts(text).text


def strip_turn_ends(text: str) -> str:
    """Remove the tokens that begin and end the model's turn, and everything after it."""
    return text[slice(*separate_thoughts(text).turn)]


def opened_thought(prompt: str) -> str:
    """Return the thought tag that ``prompt`` opens for the model to continue; empty if it ends with none."""
    tags = list(_THOUGHT_TAG.finditer(prompt))
    if not tags or prompt[tags[-1].end() :].strip() or not _kind_of(tags[-1])[0]:
        return ""
    return tags[-1][0]


def _split(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the spans of visible text and of thoughts."""
    visible: list[tuple[int, int]] = []
    thoughts: list[tuple[int, int]] = []
    family: str | None = None
    depth = position = 0
    heading = _HEADING.match(text)
    if heading is not None:
        answer = _HEADED_ANSWER.search(text, heading.end())
        thoughts.append((heading.end(), len(text) if answer is None else answer.start()))
        if answer is None:
            return visible, thoughts
        position = answer.end()
    values = ValueSpans(text)
    for tag in _matches(_THOUGHT_TAG, text, position, len(text)):
        opens, kind = _kind_of(tag)
        if is_mention(text, tag.start(), tag.end()):
            continue
        if tag["element"] is not None and (
            tag["rest"].endswith("/") or (kind != family if family else not opens)
        ):
            # It holds what is said, or stands within another thought.
            continue
        if family is None and values.hold(position, tag.start(), tag.end()):
            continue
        if tag["rest"] is not None and tag["rest"].endswith("/"):
            # An empty thought.
            if family is None:
                visible.append((position, tag.start()))
                position = tag.end()
        elif family is None and opens:
            visible.append((position, tag.start()))
            family, position = kind, tag.end()
        elif family is None:
            # Opened by the prompt, or a second closing tag: all before it was thought.
            thoughts = [(0, tag.start())]
            visible, position = [], tag.end()
        elif kind == family and tag["element"] is not None and (tag["slash"] is None or depth):
            depth += 1 if tag["slash"] is None else -1
        elif not opens and kind == family:
            thoughts.append((position, tag.start()))
            family, position = None, tag.end()
    (visible if family is None else thoughts).append((position, len(text)))
    return visible, thoughts


def _kind_of(tag: re.Match[str]) -> tuple[bool, str]:
    """Return whether a tag opens a thought, and the tag that closes it."""
    name = tag["name"]
    if name is not None:
        name = name.casefold()
        opens = not tag["slash"]
        return opens, "think" if name in _THINK_FAMILY else name
    if tag["element"] is not None:
        element = tag["element"].casefold()
        opens = not tag["slash"] and not tag["rest"].endswith("/")
        if opens and _SAYS_THOUGHT.search(tag["rest"]) is None:
            opens = element == "details" and _SUMMARY.match(tag.string, tag.end()) is not None
        return opens, f"<{element}>"
    if tag["square_slash"] is not None:
        return not tag["square_slash"], "[]"
    if tag["unused"] is not None:
        return tag["unused"] == "16", "unused"
    if tag["triangle_slash"] is not None:
        return not tag["triangle_slash"], "◁▷"
    edge = tag["edge"] or tag["bare_edge"]
    if edge is not None:
        return _CLOSING_EDGE.match(edge.casefold()) is None, "edge"
    return tag["channel"].endswith("thought"), "channel"


def is_mention(text: str, start: int, end: int) -> bool:
    """Return true if the tag at this place is in code ticks, so that it is only mentioned."""
    return start > 0 and text[start - 1] == "`" and text[end : end + 1] == "`"


def _within_turn(text: str, visible: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return the spans within the model's turn, and the start and end of the turn."""
    kept: list[tuple[int, int]] = []
    turn_begins = 0
    values = ValueSpans(text)
    for start, end in visible:
        if not kept:
            begin = _TURN_BEGIN.match(text, start, end)
            after = begin.end() if begin is not None else start
            turn_begins = after if start == 0 else turn_begins
            start = after
            if start == end:
                continue
        for ends in _matches(_TURN_END, text, start, end):
            is_first_word = ends["result"] is not None and not text[start : ends.start()].strip()
            if is_first_word or values.hold(start, ends.start(), ends.end()):
                continue
            turn_ends = ends.start() if ends["observed"] is None else ends.start("observed")
            kept.append((start, turn_ends))
            return kept, (turn_begins, turn_ends)
        kept.append((start, end))
    return kept, (turn_begins, len(text))


def _matches(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    """Yield the matches of ``pattern``, several times as fast as ``finditer`` if all of them begin with ``<``."""
    # Searched within the part alone: a text may have as many parts as thoughts.
    if any(text.find(mark, start, end) != -1 for mark in _OTHER_MARKUP):
        yield from pattern.finditer(text, start, end)
        return
    position = text.find("<", start, end)
    while position != -1:
        found = pattern.match(text, position, end)
        if found is not None:
            yield found
        position = text.find("<", position + 1 if found is None else found.end(), end)


def _joined(
    text: str, visible: list[tuple[int, int]], thoughts: list[tuple[int, int]], turn: tuple[int, int]
) -> VisibleText:
    if len(visible) == 1:
        # Nearly always: one thought, and what is said after it.
        start, end = visible[0]
        stripped = text[start:end].strip()
        start = text.find(stripped, start)
        pieces = [(start, len(stripped))] if stripped else []
        return VisibleText(stripped, _thought_in(text, thoughts), tuple(pieces), turn)
    joined = "".join(text[start:end] for start, end in visible)
    stripped = joined.strip()
    skipped = len(joined) - len(joined.lstrip())
    pieces = []
    for start, end in visible:
        size = end - start
        cut = min(skipped, size)
        skipped -= cut
        if size > cut:
            pieces.append((start + cut, size - cut))
    return VisibleText(stripped, _thought_in(text, thoughts), tuple(pieces), turn)


def _thought_in(text: str, thoughts: list[tuple[int, int]]) -> str:
    return "\n".join(piece for start, end in thoughts if (piece := text[start:end].strip()))
