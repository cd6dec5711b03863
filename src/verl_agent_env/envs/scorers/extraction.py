"""Extraction of the answer from a model's text."""

from __future__ import annotations

from typing import Literal, TypeAlias

from verl_agent_env.messages.reading import Marked, find_boxed, find_tagged, unwrap

Extraction: TypeAlias = Literal["whole", "last_line", "answer_tag", "boxed", "auto"]
"""Part of the text that is the answer: all of it, its last non-blank line, the last ``<answer>``, the last ``\\boxed{}``, or
(``auto``) the first existing of ``<answer>``, ``\\boxed{}`` and all of it. In a text without marks some scorers use only its
stated final answer."""


def marked_answer(text: str, extraction: Extraction) -> str | None:
    """Return the answer that ``text`` marks in the way of ``extraction``; ``None`` if there is no such mark.

    A box within the tags of an answer is the answer.
    """
    if extraction in ("answer_tag", "auto"):
        tagged = find_tagged(text, "answer")
        if tagged is not None:
            boxed = find_boxed(tagged.text)
            return tagged.text if boxed is None else _inside(boxed)
    if extraction in ("boxed", "auto"):
        boxed = find_boxed(text)
        if boxed is not None:
            return _inside(boxed)
    return None


def extract_answer(text: str, extraction: Extraction) -> str | None:
    """Return the part of ``text`` that ``extraction`` names, stripped; ``None`` if there is none."""
    if extraction == "last_line":
        lines = text.strip().splitlines()
        return lines[-1].strip() if lines else None
    marked = marked_answer(text, extraction)
    return text.strip() if marked is None and extraction in ("whole", "auto") else marked


def _inside(box: Marked) -> str:
    """Return the content of a box, without commands that set words: ``\\boxed{\\text{up}}``."""
    return unwrap(box.text) if box.text.startswith("\\") else box.text
