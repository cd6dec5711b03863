"""Pattern match with RE2, in bounded time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, Self

import re2  # type: ignore[import-untyped]
from pydantic import Field, model_validator

from verl_agent_env.envs.scorers.base import MatchingScorer

MAX_PATTERN_CHARS = 1_000
MAX_PATTERN_PROGRAM = 1_000
"""Limit of the instructions of a compiled pattern. RE2's time is proportional to these times the bytes of the text."""
MAX_PATTERN_TEXT_BYTES = 8_192
"""Bytes at the end of an answer that are matched: with the limit above, some 100 ms in the worst case."""

# The library keeps up to 128 compiled patterns: 32 MiB in all.
_PATTERN_MEMORY_BYTES = 1 << 18


class RegexScorer(MatchingScorer):
    """The answer must match a pattern of RE2's syntax, which has no look-around and no back-references.

    The pattern comes from the network, so the engine must not backtrack: RE2's time is bounded by the pattern's
    size times the text's (https://github.com/google/re2/wiki/WhyRE2), and both are limited here.
    """

    type: Literal["regex"] = "regex"
    pattern: str = Field(
        repr=False, min_length=1, max_length=MAX_PATTERN_CHARS, description="RE2 syntax: no look-around."
    )
    mode: Literal["search", "fullmatch"] = Field(
        default="search", description="Match a part of the answer, or all of it."
    )
    ignore_case: bool = Field(default=False, description="Capital letters do not count.")
    dot_matches_newline: bool = Field(default=False, description="'.' matches line ends too.")

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        _compile(self.pattern, self.ignore_case, self.dot_matches_newline)
        return self

    def matches(self, answer: str) -> bool:
        encoded = answer[-MAX_PATTERN_TEXT_BYTES - 1 :].encode("utf-8", "replace")
        compiled = _compile(self.pattern, self.ignore_case, self.dot_matches_newline)
        if self.mode == "fullmatch":
            return len(encoded) <= MAX_PATTERN_TEXT_BYTES and compiled.fullmatch(encoded) is not None
        return compiled.search(encoded[-MAX_PATTERN_TEXT_BYTES:]) is not None


@lru_cache(maxsize=128)
def _compile(pattern: str, ignore_case: bool, dot_matches_newline: bool) -> Any:
    """Compile ``pattern`` with RE2.

    Raises:
        ValueError: It is no pattern of RE2, or too large; the message does not repeat it.
    """
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _PATTERN_MEMORY_BYTES
    options.case_sensitive = not ignore_case
    options.dot_nl = dot_matches_newline
    try:
        # RE2 refuses a lone surrogate, which "replace" would turn into the operator "?".
        compiled = re2.compile(pattern.encode("utf-8", "surrogatepass"), options)
    except re2.error:
        raise ValueError(
            "not a pattern of RE2's syntax, or too large a one; look-around and back-references are not supported"
        ) from None
    if compiled.programsize > MAX_PATTERN_PROGRAM:
        raise ValueError("the pattern is too large; use fewer or smaller repetitions")
    return compiled
