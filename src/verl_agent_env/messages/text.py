"""Finds the action in a model's raw text.

Known ways of writing one, in the order in which they are looked for: ``<tool_call>{json}</tool_call>`` (Hermes,
Qwen), ``<answer>Up || Left</answer>`` (RAGEN), ``\\boxed{up}`` (GEM), ``<action>up</action>`` (verl-agent), a bare
action. What stands in ``<think>`` is never an action. All searches are linear in the length of the text.
"""

from __future__ import annotations

from typing import NamedTuple

MOVE_SEPARATOR = "||"
"""Parts several moves inside one ``<answer>``."""


class Sections(NamedTuple):
    """What was found: JSON texts of tool calls, or the moves written as words."""

    tool_calls: list[str]
    words: list[str]


def read_sections(text: str) -> Sections:
    """Find tool calls or moves in ``text``; both empty when there is nothing but blanks."""
    spoken = strip_thoughts(text)
    calls = find_tagged(spoken, "<tool_call>", "</tool_call>", open_ended=True)
    if calls:
        return Sections(calls, [])
    answers = find_tagged(spoken, "<answer>", "</answer>")
    if not answers:
        boxed = find_boxed(spoken)
        answers = [boxed] if boxed is not None else find_tagged(spoken, "<action>", "</action>")
    # Of several answers the last one counts: models correct themselves.
    answer = answers[-1] if answers else spoken
    return Sections([], [word for part in answer.split(MOVE_SEPARATOR) if (word := part.strip())])


def strip_thoughts(text: str) -> str:
    """``text`` without its ``<think>`` sections; an unclosed one reaches to the end.

    A chat template may have put the opening tag into the prompt: then all up to the first closing tag goes.
    """
    end = text.find("</think>")
    start = text.find("<think>")
    if end != -1 and (start == -1 or end < start):
        text = text[end + len("</think>") :]
        start = text.find("<think>")
    if start == -1:
        return text.strip()
    kept = []
    position = 0
    while start != -1:
        kept.append(text[position:start])
        end = text.find("</think>", start)
        if end == -1:
            position = len(text)
            break
        position = end + len("</think>")
        start = text.find("<think>", position)
    kept.append(text[position:])
    return "".join(kept).strip()


def find_tagged(text: str, opening: str, closing: str, *, open_ended: bool = False) -> list[str]:
    """The texts between ``opening`` and ``closing``, blanks stripped; ``open_ended`` lets the end of text close."""
    found = []
    position = text.find(opening)
    while position != -1:
        start = position + len(opening)
        end = text.find(closing, start)
        if end == -1:
            if open_ended:
                found.append(text[start:].strip())
            break
        found.append(text[start:end].strip())
        position = text.find(opening, end + len(closing))
    return found


def find_boxed(text: str) -> str | None:
    """What the last ``\\boxed{…}`` holds, braces inside matched; ``None`` when there is none."""
    opening = "\\boxed{"
    start = text.rfind(opening)
    if start == -1:
        return None
    depth = 1
    for position in range(start + len(opening), len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                inner = text[start + len(opening) : position].strip()
                # \boxed{\text{up}} is common.
                if inner.startswith("\\text{") and inner.endswith("}"):
                    inner = inner[len("\\text{") : -1].strip()
                return inner
    return None
