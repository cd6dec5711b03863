"""Finds what a model's text says aloud: without thoughts, and without what follows the end of its turn.

A thought is what stands between two thought tags, in any case and with attributes: ``<think>``, ``<thinking>``,
``<reasoning>``, ``[THINK]``, ``◁think▷``, ``<seed:think>`` and others, and the ``analysis`` channel of harmony. A tag
that stands in code ticks is only mentioned. One pass over the text; nothing raises.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from verl_agent_env.messages.reading import harmony

_NAMES = (
    *("think", "thinking", "thought", "thoughts", "reason", "reasoning", "reasoning_content", "reflection"),
    *("analysis", "scratchpad", "inner_monologue", "inner_thoughts", "antthinking"),
    *("seed:think", "mm:think", "longcat_think", "cot"),
)
# Every branch begins with a character of its own, so that the search leaps from one of them to the next.
_THOUGHT_TAG = re.compile(
    rf"<(?P<slash>/?)\s*(?P<name>{'|'.join(sorted(_NAMES, key=len, reverse=True))})(?=[\s/>])[^<>]*>"
    r"|\[(?P<square_slash>/?)THINK\]"
    r"|◁(?P<triangle_slash>/?)think▷"
    r"|<\|(?P<edge>begin_of_thought|end_of_thought|start_thinking|end_thinking|inner_prefix|inner_suffix)\|>"
    r"|<(?P<channel>\|channel>thought|channel\|>)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[<\[◁]")
_OPENING_EDGES = frozenset({"begin_of_thought", "start_thinking", "inner_prefix"})
# Models mix the words of a family: a thought that <think> opens is also closed by </thinking>.
_THINK_FAMILY = frozenset({"think", "thinking", "thought", "thoughts"})

_TURN_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>"),
    *("<|end_of_turn|>", "<|endofturn|>", "[|endofturn|]", "<|end_of_sentence|>", "<|END_OF_TURN_TOKEN|>"),
    *("<｜end▁of▁sentence｜>", "<end_of_turn>", "<turn|>", "<eos>", "[EOS]", "<seed:eos>", "[e~["),
    *("<|return|>", "<|call|>", "<|user|>", "<|observation|>"),
)
_TURN_END = re.compile(
    "|".join(map(re.escape, _TURN_ENDS))
    # Struck-out text in HTML ends with it too.
    + r"|</s>(?=\s*(?:</?s>|\[INST\]|\Z))"
)
_TURN_BEGIN = re.compile(
    r"(?:\s*+(?:<\|im_start\|>(?:assistant)?|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|begin_of_text\|>"
    r"|<｜begin▁of▁sentence｜>|<｜Assistant｜>|<\|assistant\|>|<start_of_turn>(?:model)?|<bos>|<s>"
    rf"|{'|'.join(map(re.escape, _TURN_ENDS))}|</s>))*+"
)


class Spoken(NamedTuple):
    """What of a text is said aloud."""

    text: str
    """Blanks around it stripped."""
    thought: str
    """The thoughts, parted by line breaks; empty if there are none."""
    pieces: tuple[tuple[int, int], ...]
    """Where the parts of :attr:`text` stand in the original: start there, length."""
    turn: tuple[int, int]
    """Where the model's turn begins and ends in the original, thoughts included."""

    def place(self, position: int) -> int:
        """Where a position of :attr:`text` stands in the original text."""
        if len(self.pieces) == 1:
            return self.pieces[0][0] + position
        begins = []
        length = 0
        for _, size in self.pieces:
            begins.append(length)
            length += size
        piece = max(bisect_right(begins, position) - 1, 0) if begins else 0
        return self.pieces[piece][0] + position - begins[piece] if begins else position


def read_spoken(text: str) -> Spoken:
    """Take ``text`` apart into what is said and what is thought.

    A closing tag without an opening one closes a thought that the prompt opened, or one within another: all up to
    the last such tag is thought. A thought that is never closed reaches to the end.
    """
    is_harmony = harmony.is_written_in(text)
    if not is_harmony and _MARKUP.search(text) is None:
        stripped = text.strip()
        pieces = ((text.find(stripped), len(stripped)),) if stripped else ()
        return Spoken(stripped, "", pieces, (0, len(text)))
    if is_harmony:
        spoken, thoughts = harmony.split(text)
        # Its tokens tell the thoughts, so that they stay.
        return _joined(text, _within_turn(text, spoken)[0], thoughts, (0, len(text)))
    spoken, thoughts = _split(text)
    kept, turn = _within_turn(text, spoken)
    return _joined(text, kept, thoughts, turn)


def strip_thoughts(text: str) -> str:
    """The part of ``text`` that is said aloud, blanks around it stripped."""
    return read_spoken(text).text


def strip_turn_ends(text: str) -> str:
    """``text`` without the tokens that begin and end the model's turn, and without all that follows it."""
    return text[slice(*read_spoken(text).turn)]


def opened_thought(prompt: str) -> str:
    """The tag of a thought that ``prompt`` opens for the model to go on with; empty if it ends with none."""
    tags = list(_THOUGHT_TAG.finditer(prompt))
    if not tags or prompt[tags[-1].end() :].strip() or not _kind_of(tags[-1])[0]:
        return ""
    return tags[-1][0]


def _split(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Spans of what is said and of what is thought."""
    spoken: list[tuple[int, int]] = []
    thoughts: list[tuple[int, int]] = []
    family: str | None = None
    position = 0
    for tag in _matches(_THOUGHT_TAG, text, 0, len(text)):
        opens, kind = _kind_of(tag)
        if is_mention(text, tag.start(), tag.end()):
            continue
        if family is None and opens:
            spoken.append((position, tag.start()))
            family, position = kind, tag.end()
        elif family is None:
            # Opened by the prompt, or a second closing tag: all before it was thought.
            thoughts = [(0, tag.start())]
            spoken, position = [], tag.end()
        elif not opens and kind == family:
            thoughts.append((position, tag.start()))
            family, position = None, tag.end()
    (spoken if family is None else thoughts).append((position, len(text)))
    return spoken, thoughts


def _kind_of(tag: re.Match[str]) -> tuple[bool, str]:
    """Whether a tag opens a thought, and what has to close it."""
    name = tag["name"]
    if name is not None:
        name = name.casefold()
        opens = not tag["slash"]
        return opens, "think" if name in _THINK_FAMILY else name
    if tag["square_slash"] is not None:
        return not tag["square_slash"], "[]"
    if tag["triangle_slash"] is not None:
        return not tag["triangle_slash"], "◁▷"
    if tag["edge"] is not None:
        edge = tag["edge"].casefold()
        return edge in _OPENING_EDGES, "edge"
    return tag["channel"].endswith("thought"), "channel"


def is_mention(text: str, start: int, end: int) -> bool:
    """Whether the tag at this place stands in code ticks, so that it is only spoken of."""
    return start > 0 and text[start - 1] == "`" and text[end : end + 1] == "`"


def _within_turn(text: str, spoken: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The spans without what begins and what ends a turn, and without all that follows; and where the turn stands."""
    kept: list[tuple[int, int]] = []
    turn_begins = 0
    for start, end in spoken:
        if not kept:
            begin = _TURN_BEGIN.match(text, start, end)
            after = begin.end() if begin is not None else start
            turn_begins = after if start == 0 else turn_begins
            start = after
            if start == end:
                continue
        ends = next(_matches(_TURN_END, text, start, end), None)
        if ends is not None:
            kept.append((start, ends.start()))
            return kept, (turn_begins, ends.start())
        kept.append((start, end))
    return kept, (turn_begins, len(text))


def _matches(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    """As ``pattern.finditer``, for patterns whose matches begin as :data:`_MARKUP` does: several times as fast."""
    if "[" in text or "◁" in text:
        yield from pattern.finditer(text, start, end)
        return
    position = text.find("<", start, end)
    while position != -1:
        found = pattern.match(text, position, end)
        if found is not None:
            yield found
        position = text.find("<", position + 1 if found is None else found.end(), end)


def _joined(
    text: str, spoken: list[tuple[int, int]], thoughts: list[tuple[int, int]], turn: tuple[int, int]
) -> Spoken:
    if len(spoken) == 1:
        # Nearly always: one thought, and what is said after it.
        start, end = spoken[0]
        stripped = text[start:end].strip()
        start = text.find(stripped, start)
        pieces = [(start, len(stripped))] if stripped else []
        return Spoken(stripped, _thought_in(text, thoughts), tuple(pieces), turn)
    joined = "".join(text[start:end] for start, end in spoken)
    stripped = joined.strip()
    skipped = len(joined) - len(joined.lstrip())
    pieces = []
    for start, end in spoken:
        size = end - start
        cut = min(skipped, size)
        skipped -= cut
        if size > cut:
            pieces.append((start + cut, size - cut))
    return Spoken(stripped, _thought_in(text, thoughts), tuple(pieces), turn)


def _thought_in(text: str, thoughts: list[tuple[int, int]]) -> str:
    return "\n".join(piece for start, end in thoughts if (piece := text[start:end].strip()))
