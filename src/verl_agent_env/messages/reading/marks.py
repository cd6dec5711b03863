"""Marked answers of a text: ``<answer>…</answer>``, ``\\boxed{…}``, ``<action>…</action>``.

Of several marked answers the last non-empty one counts, since models correct themselves. The end of the text closes an open
mark, which a stop string or the token limit cut off. Every search takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from verl_agent_env.messages.reading.thoughts import is_mention

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox|framebox)\s*+\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*+\{")
_CUT_OFF_TAG = re.compile(r"<(?:\s*+\\?/?\s*+(\w*+))\s*+\Z")
# The box of GLM's models that see.
_GLM_BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)", re.DOTALL)
_MAX_WRAPPERS = 16

_PAIRS: tuple[tuple[str, str], ...] = (
    *(("```", "```"), ("**", "**"), ("__", "__"), ("$$", "$$"), ("``", "``")),
    *(("*", "*"), ("_", "_"), ("`", "`"), ("$", "$"), ('"', '"'), ("'", "'")),
    *(("“", "”"), ("‘", "’"), ("«", "»"), ("„", "“"), ("「", "」"), ("\\(", "\\)"), ("\\[", "\\]")),
    ("<|begin_of_box|>", "<|end_of_box|>"),
)
_LANGUAGE = re.compile(
    r"(?:text|txt|plaintext|latex|tex|math|markdown|md|json|python|py|bash|sh|answer)[ \t]*+\n"
)
_OPENERS = frozenset(opening[0] for opening, _ in _PAIRS)
_COMMAND = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|texttt|textrm|mathrm|mathbf|mathtt|mathsf|operatorname|emph|mbox)\s*+\{"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class Marked(NamedTuple):
    """Answer within its mark."""

    text: str
    """Content of the mark, stripped; not unwrapped."""
    start: int
    """Start of the content."""
    end: int
    """End of the content."""
    closed: bool
    """True if the text itself closes the mark."""


def find_tagged(text: str, name: str) -> Marked | None:
    """Find the last answer between the tags ``<name>`` and ``</name>``; ``None`` if there is no such tag.

    Tags may have any case, attributes and blanks. Of several opening tags before a closing one the last counts; the others are
    mentions, as are tags in code ticks. A closed answer is preferred to an open one.
    """
    if "<" not in text:
        return None
    closed: Marked | None = None
    opened: Marked | None = None
    start: int | None = None
    for tag in _tags(name).finditer(text):
        if is_mention(text, tag.start(), tag.end()):
            continue
        if start is not None:
            found = _marked(text, start, tag.start(), closed=bool(tag[1]))
            if tag[1]:
                closed = found if found.text or closed is None else closed
            elif found.text:
                opened = found
        start = None if tag[1] else tag.end()
    if start is not None:
        # A closing tag may be cut off too.
        cut_off = _CUT_OFF_TAG.search(text, start)
        end = len(text)
        if cut_off is not None and name.casefold().startswith(cut_off[1].casefold()):
            end = cut_off.start()
        rest = _marked(text, start, end, closed=False)
        opened = rest if rest.text or opened is None else opened
    # An empty pair of tags hides nothing.
    return opened if closed is None or (not closed.text and opened is not None and opened.text) else closed


def find_boxed(text: str) -> Marked | None:
    """Find the content of the last ``\\boxed{…}`` or ``\\fbox{…}``, with matched braces; ``None`` if there is no box."""
    if "box" not in text:
        return None
    first = _BOX.search(text)
    if first is None:
        boxes = [box for box in _GLM_BOX.finditer(text) if box[1].strip()]
        return _marked(text, *boxes[-1].span(1), closed=boxes[-1].end(1) < len(text)) if boxes else None
    closed: Marked | None = None
    # Stack of the open braces: the start of a box's content, -1 for any other brace.
    open_braces: list[int] = []
    for token in _BOX_TOKEN.finditer(text, first.start()):
        if token[0] == "}":
            start = open_braces.pop() if open_braces else -1
            # A box within another one begins later, and is the answer.
            if start >= 0 and (closed is None or start > closed.start or not closed.text):
                found = _marked(text, start, token.start(), closed=True)
                closed = found if found.text or closed is None else closed
        elif token[0] == "{":
            open_braces.append(-1)
        elif token[0].endswith("{") and _BOX.match(token[0]):
            open_braces.append(token.end())
    if closed is not None and closed.text:
        return closed
    for start in reversed(open_braces):
        if start >= 0:
            cut_off = _marked(text, start, len(text), closed=False)
            return cut_off if cut_off.text or closed is None else closed
    return closed


def unwrap(text: str) -> str:
    """Remove wrappers around ``text``: emphasis, quotes, code ticks, ``$…$``, ``\\boxed{\\text{…}}``.

    Only wrappers of the whole text are removed.
    """
    text = text.strip()
    for _ in range(_MAX_WRAPPERS):
        if text[:1] not in _OPENERS:
            return text
        inner = _inside_pair(text)
        if inner is None:
            inner = _inside_command(text)
        if inner is None:
            return text
        text = inner.strip()
    return text


def without_language(text: str) -> str:
    """Return the content of a code fence without the name of its language."""
    language = _LANGUAGE.match(text)
    return text if language is None else text[language.end() :]


@lru_cache(maxsize=32)
def _tags(name: str) -> re.Pattern[str]:
    return re.compile(rf"<\s*+(\\?/)?\s*+{re.escape(name)}(?=[\s/>])[^<>]*+>", re.IGNORECASE)


def _marked(text: str, start: int, end: int, *, closed: bool) -> Marked:
    return Marked(text[start:end].strip(), start, end, closed)


def _inside_pair(text: str) -> str | None:
    for opening, closing in _PAIRS:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            # "a" or "b": the first mark is not closed by the last one.
            if closing not in inner and opening not in inner:
                return without_language(inner) if opening == "```" else inner
    return None


def _inside_command(text: str) -> str | None:
    command = _COMMAND.match(text)
    if command is None or not text.endswith("}"):
        return None
    depth = 1
    for brace in _BRACE.finditer(text, command.end()):
        if brace[0] == "{":
            depth += 1
        elif brace[0] == "}":
            depth -= 1
            if depth == 0:
                return text[command.end() : -1] if brace.end() == len(text) else None
    return None
