"""Which part of a model's text is its answer."""

from __future__ import annotations

from typing import Literal, TypeAlias

from verl_agent_env.messages.reading import Marked, find_boxed, find_tagged, unwrap

Extraction: TypeAlias = Literal["whole", "last_line", "answer_tag", "boxed", "auto"]
"""Which part of the text is the answer: all of it, its last line that is not blank, the last ``<answer>``, the last
``\\boxed{}``, or the first of ``<answer>``, ``\\boxed{}`` and all of it that exists. Of an unmarked text some scorers take only
what it gives as its final answer."""


def marked_answer(text: str, extraction: Extraction) -> str | None:
    """The answer that ``text`` marks in the way of ``extraction``; ``None`` if there is no such mark.

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
    """The part of ``text`` that ``extraction`` names, blanks around it stripped; ``None`` if there is none."""
    if extraction == "last_line":
        lines = text.strip().splitlines()
        return lines[-1].strip() if lines else None
    marked = marked_answer(text, extraction)
    return text.strip() if marked is None and extraction in ("whole", "auto") else marked


def _inside(box: Marked) -> str:
    """What stands in a box, words there without the command that sets them as words: ``\\boxed{\\text{up}}``."""
    return unwrap(box.text) if box.text.startswith("\\") else box.text
