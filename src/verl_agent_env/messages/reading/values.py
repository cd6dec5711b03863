"""Values of tool calls within a text: the marks that stand in one belong to it, as in ``{"query": "the <think> tag"}``."""

from __future__ import annotations

import re

from verl_agent_env.messages.reading.literals import MalformedError, scan_call, scan_value

_MAX_FAILURES = 16
"""Number of beginnings that may be no value, each of which may be read to the end of the text."""
# Every branch begins with a character of its own, so that the search leaps from one of them to the next.
_BEGIN = re.compile(
    r"\{(?P<json>)(?=\s*+[\"'])"
    r"|\((?P<call>)(?=[^()<]{0,80}?[\"'])"
    r"|<(?:(?P<tag>(?:｜DSML｜|\w{1,20}:)?param(?:eter)?)(?:=|\s)[^<>]*+>|(?P<arg>arg_value)>"
    r"|(?P<quote>\|\"\|>|escape>))"
)
_CALLEE = re.compile(r"[^\W\d][\w.]{0,63}\Z")
# Behind one of these the value before was left open.
_NEXT_PART = re.compile(
    r"<(?:\w{1,20}:|｜DSML｜)?(?:tool_call|function|invoke|param|arg_key|start_function_call)|<\|tool_call"
)


class ValueSpans:
    """Search for the values of a text, in the order of its marks; linear in the length of the text for all marks together."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._searched_to = 0
        self._value_end = 0
        self._failures = 0

    def hold(self, begin: int, start: int, end: int) -> bool:
        """Return true if the mark from ``start`` to ``end`` stands in a value that begins at ``begin`` or later.

        The marks of successive calls follow each other.
        """
        position = max(begin, self._searched_to)
        while self._value_end < end and self._failures < _MAX_FAILURES:
            opening = _BEGIN.search(self._text, position, start)
            if opening is None:
                position = start
                break
            position = opening.end()
            value_end = self._end_of_value(opening, start, end)
            if value_end is None:
                self._failures += 1
            else:
                position = self._value_end = max(position, value_end)
        self._searched_to = max(position, self._searched_to)
        return begin < self._value_end and end <= self._value_end

    def _end_of_value(self, opening: re.Match[str], start: int, end: int) -> int | None:
        """Return the end of the value at ``opening``; ``None`` if there is none."""
        try:
            if opening["json"] is not None:
                return scan_value(self._text, opening.start())[1]
            if opening["call"] is not None:
                callee = _CALLEE.search(self._text[max(0, opening.start() - 64) : opening.start()])
                if callee is None:
                    return opening.end()
                return scan_call(self._text, opening.start() - len(callee[0]))[1]
        except MalformedError:
            return None
        tag = opening["tag"] or opening["arg"]
        closing = self._text.find(f"</{tag}>" if tag else opening[0], opening.end())
        if closing == -1:
            return None
        if closing >= end and _NEXT_PART.search(self._text, end, closing) is not None:
            return None
        return closing if closing >= end else max(closing, opening.end())
