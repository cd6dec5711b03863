"""Exact match: the answer must equal a reference after normalization."""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from verl_agent_env.envs.scorers.base import FinalAnswerScorer
from verl_agent_env.messages.reading import stated_answers, without_language

MAX_REFERENCE_CHARS = 20_000
MAX_REFERENCES = 100
MAX_REFERENCES_CHARS = 40_000
"""Limit of the characters of all references together."""
MAX_COMPARED_CHARS = 40_000
"""Longest text that can match, before and after Unicode normalization: NFKC can expand one character to 18."""
MAX_COMBINING_MARKS = 30
"""Limit of consecutive combining marks, as in Unicode's stream-safe format (UAX #15): sorting them takes quadratic time."""

Ignored: TypeAlias = Literal["stops", "quotes", "emphasis", "brackets", "articles"]
"""Ignored parts around the text: ``Paris.``, ``"Paris"``, ``**Paris**`` and code ticks, ``(B)`` and ``B)``; and, also within
it, the articles ``a``, ``an`` and ``the``."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_STOPS = ".,;:!?…。，；：！？"
_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "quotes": (
        ('"', '"'),
        ("'", "'"),
        ("“", "”"),
        ("‘", "’"),
        ("„", "“"),
        ("«", "»"),
        ("「", "」"),
        ("『", "』"),
    ),
    "emphasis": (
        *(
            ("```", "```"),
            ("**", "**"),
            ("__", "__"),
            ("~~", "~~"),
            ("$$", "$$"),
            ("*", "*"),
            ("_", "_"),
            ("`", "`"),
            ("$", "$"),
        ),
        *(
            ("\\(", "\\)"),
            ("\\textbf{", "}"),
            ("\\mathbf{", "}"),
            ("\\text{", "}"),
            ("\\textit{", "}"),
            ("\\mathrm{", "}"),
        ),
    ),
    "brackets": (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"), ("（", "）"), ("【", "】")),
}
_CHOICE = re.compile(r"[(（]?([^\W_]{1,3})[)）.]")
_WITHOUT_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
_ARTICLE = re.compile(r"(?<!\w)(?:a|an|the)(?!\w)", re.IGNORECASE)
_MAX_WRAPPERS = 8

_Reference = Annotated[str, Field(max_length=MAX_REFERENCE_CHARS)]


class ExactMatchScorer(FinalAnswerScorer):
    """The answer must equal the reference, or one of several references.

    In a text without a marked answer, the whole text and the answer that it states are compared.
    """

    type: Literal["exact_match"] = "exact_match"
    answer: _Reference | tuple[_Reference, ...] = Field(repr=False, description="The reference, or several.")
    strip: bool = Field(default=True, description="Blanks around the texts do not count.")
    ignore_case: bool = Field(default=False, description="Capital letters do not count.")
    collapse_spaces: bool = Field(
        default=True, description="A run of blanks or line ends counts as one blank."
    )
    ignore_punctuation: bool = Field(default=False, description="ASCII punctuation does not count.")
    ignore: tuple[Ignored, ...] = Field(
        default=(),
        description=(
            "What else does not count: 'stops' (Paris.), 'quotes' (\"Paris\"), 'emphasis' (**Paris**, `Paris`), 'brackets' "
            "((B) and B)), 'articles' (the Seine)."
        ),
    )
    normalize: Literal["none", "NFC", "NFKC"] = Field(
        default="NFC", description="Unicode normal form before comparing."
    )

    @field_validator("answer")
    @classmethod
    def _is_comparable(cls, answer: str | tuple[str, ...]) -> str | tuple[str, ...]:
        references = (answer,) if isinstance(answer, str) else answer
        if not 1 <= len(references) <= MAX_REFERENCES:
            raise ValueError(f"give from 1 to {MAX_REFERENCES} references")
        if sum(map(len, references)) > MAX_REFERENCES_CHARS:
            raise ValueError(f"give references of at most {MAX_REFERENCES_CHARS} characters together")
        if not all(_is_stream_safe(reference) for reference in references):
            raise ValueError(f"a reference has more than {MAX_COMBINING_MARKS} combining marks in a row")
        return answer

    def unmarked(self, text: str) -> tuple[str, ...]:
        return (text.strip(), *stated_answers(text))

    def matches(self, answer: str) -> bool:
        if len(answer) > MAX_COMPARED_CHARS or not _is_stream_safe(answer):
            return False
        normal = self._normal(answer)
        return normal is not None and normal in self._references

    @functools.cached_property
    def _references(self) -> frozenset[str | None]:
        """Normalized references, computed once."""
        references = (self.answer,) if isinstance(self.answer, str) else self.answer
        return frozenset(map(self._normal, references))

    def _normal(self, text: str) -> str | None:
        """Normalize ``text`` for comparison; ``None`` if it is too long."""
        if self.normalize != "none":
            text = unicodedata.normalize(self.normalize, text)
            if len(text) > MAX_COMPARED_CHARS:
                return None
        if self.ignore_case:
            text = text.casefold()
        if self.ignore:
            text = _without(text, self.ignore)
        if self.ignore_punctuation:
            text = text.translate(_PUNCTUATION)
        if self.collapse_spaces:
            # Not split(): `strip` decides about outer blanks.
            text = re.sub(r"\s+", " ", text)
        return _stripped(text) if self.strip else text


def _without(text: str, ignored: tuple[Ignored, ...]) -> str:
    """Remove ignored wrappers around ``text``, in any order of nesting, and articles."""
    pairs = [pair for kind in ("quotes", "emphasis", "brackets") if kind in ignored for pair in _PAIRS[kind]]
    text = _stripped(text)
    for _ in range(_MAX_WRAPPERS):
        inner = text.rstrip(_STOPS).rstrip() if "stops" in ignored else text
        if "brackets" in ignored:
            choice = _CHOICE.fullmatch(inner)
            inner = choice[1] if choice is not None else inner
        for opening, closing in pairs:
            if (
                len(inner) > len(opening) + len(closing)
                and inner.startswith(opening)
                and inner.endswith(closing)
                and _encloses(inner, opening, closing)
            ):
                inner = inner[len(opening) : -len(closing)].strip()
                inner = without_language(inner) if opening == "```" else inner
                break
        if inner == text:
            break
        text = inner
    if "articles" in ignored:
        text = re.sub(r"\s+", " ", _ARTICLE.sub(" ", text)).strip()
    return text


def _stripped(text: str) -> str:
    """Return ``text`` without blanks and characters without width around it."""
    return text.strip().strip(_WITHOUT_WIDTH).strip()


def _encloses(text: str, opening: str, closing: str) -> bool:
    """Return true if the first mark of ``text`` is closed by its last one, unlike those of ``(A) or (B)``."""
    inside = text[len(opening) : -len(closing)]
    if opening == closing:
        return opening not in inside
    end = inside.find(closing)
    return end == -1 or inside.find(opening) in range(end)


def _is_stream_safe(text: str) -> bool:
    if text.isascii():
        return True
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > MAX_COMBINING_MARKS:
            return False
    return True
