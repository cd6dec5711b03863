"""Actions without marks: ReAct's lines, JSON, calls of Python, a name above JSON, words.

JSON and Python count as the whole text or as its last lines, so that an example within prose does not.
"""

from __future__ import annotations

import re
from itertools import islice

from verl_agent_env.messages.reading.arguments import (
    MAX_CALLS,
    Tools,
    WrittenCall,
    clean_name,
    first_value,
    is_call,
    read_texts,
    scan_calls,
    unfence,
)
from verl_agent_env.messages.reading.bodies import python_calls
from verl_agent_env.messages.reading.envelopes import Found
from verl_agent_env.messages.reading.literals import MalformedError, read_value, scan_value, skip_blanks
from verl_agent_env.messages.reading.marks import Marked, find_boxed, find_tagged, unwrap

MOVE_SEPARATOR = "||"
"""Separator of several moves in words."""
MARKS = ("answer", "boxed", "action")
"""Marks of an answer, in the order in which they are searched."""

_REACT_KEYS = "(?:Action Input|Action|Observation|Thought|Final Answer)"
_REACT = re.compile(
    rf"(?:^[ \t>#-]*+|(?<=[\s,;])(?=Action Input))"
    rf"(?:(?:\*\*|__)(?P<bold>{_REACT_KEYS})(?:[ \t]*+\d{{1,3}})?+(?:(?:\*\*|__)[ \t]*+:|:(?:\*\*|__))"
    rf"|(?P<plain>{_REACT_KEYS})(?:[ \t]*+\d{{1,3}})?+[ \t]*+:)",
    re.MULTILINE | re.IGNORECASE,
)
# Search[cats], as in the paper of ReAct.
_BRACKETED = re.compile(r"([^\W\d][\w.\-]*+)\[([^\[\]]*+)\]\.?")
_FENCE = re.compile(r"^[ \t]*+(?:```|~~~)(\w*+)[ \t]*+$", re.MULTILINE)
# Behind words, or on the line of what it holds.
_FENCE_WITHIN = re.compile(r"(```|~~~)[ \t]*+(?:json|tool_calls?|tool)?+\s*+(?=[{\[])", re.IGNORECASE)
_PYTHON_FENCE = re.compile(r"\n?```[ \t]*+\Z")
_FENCED = frozenset({"", "json", "tool_call", "tool_calls", "tool"})
_LINE_OF_JSON = re.compile(r"^[ \t]*+[{\[]", re.MULTILINE)
_LINE_OF_PYTHON = re.compile(
    r"^[ \t]*+(?=\[?[ \t]*+(?:[^\W\d]\w*+[ \t]*+=[ \t]*+)?+[^\W\d][\w.]*+[ \t]*+\()", re.MULTILINE
)
_NAME_BEFORE_JSON = re.compile(r"\s*+([^\W\d][\w.\-]*+(?::\d{1,4})?+)[ \t]*+(?:\[ARGS\]\s*+)?+(?=\{)")
_NAME_ABOVE_JSON = re.compile(r"([^\W\d][\w.\-]*+)[ \t]*+\n(?=\s*+\{)")
_OPENED_JSON = re.compile(
    r'\s*+(?:\[\s*+)?+\{\s*+(?:"type"\s*+:\s*+"function"\s*+,\s*+)?+(?:"function"\s*+:\s*+\{\s*+)?+'
    r'"(?:name|function|function_name|tool|tool_name)"\s*+:\s*+"([^"\\\n]++)"'
)
_OPENED_PYTHON = re.compile(r"\[?[ \t]*+([^\W\d][\w.]*+)[ \t]*+\(")
_BRACES, _PARENTHESES = re.compile(r"[{}\[\]]"), re.compile(r"[()]")
_ELEMENT = re.compile(
    r"<(?P<name>response|output|final|final_answer|solution|result|move|b|strong|em|i|code|p)>(?P<inside>[^<>]*+)</(?P=name)>",
    re.IGNORECASE,
)
_MAX_TRIES = 8


def read_react(text: str, tools: Tools, *, alone: bool = False) -> Found | None:
    """Read ``Action: f`` and ``Action Input: {…}``: the last pair before a written observation.

    An action without an input counts after a ``Thought:``, or with ``alone``.
    """
    action: re.Match[str] | None = None
    parts: dict[str, tuple[int, int]] = {}
    lines = list(_REACT.finditer(text))
    for line, end in zip(lines, [*(line.start() for line in lines[1:]), len(text)], strict=False):
        key = (line["bold"] or line["plain"]).casefold()
        if key == "observation":
            break
        if key == "thought":
            alone = True
        elif key == "action":
            action, parts = line, {"action": (line.end(), end)}
        elif key == "action input" and "action" in parts:
            parts[key] = (line.end(), end)
    if action is None:
        return None
    begin, end = parts["action"]
    if "action input" in parts:
        name = unwrap(text[begin:end]).strip("[],; ")
        begin, end = parts["action input"]
        call = WrittenCall(clean_name(name, tools), _react_input(text[begin:end], name, tools))
        return Found("react", [call], [], action.start(), end)
    bracketed = _BRACKETED.fullmatch(text[begin:end].strip())
    if bracketed is not None and clean_name(bracketed[1], tools) in tools:
        name = clean_name(bracketed[1], tools)
        return Found(
            "react", [WrittenCall(name, _react_input(bracketed[2], name, tools))], [], action.start(), end
        )
    if not alone:
        return None
    inner = read_marks(text[begin:end], tools) or read_bare(text[begin:end], tools)
    return inner._replace(form="react", start=action.start(), end=end)


def read_marks(text: str, tools: Tools, marks: tuple[str, ...] = MARKS) -> Found | None:
    """Read the content of the first of ``marks`` in the text; an empty mark counts only if it is the whole text."""
    empty: Found | None = None
    for number, mark in enumerate(marks):
        marked = _find(text, mark)
        if marked is None:
            continue
        if marked.text:
            within = None
            if MOVE_SEPARATOR not in marked.text:
                within = read_marks(marked.text, tools, marks[number + 1 :])
            inner = within or read_react(marked.text, tools, alone=True) or read_bare(marked.text, tools)
            return inner._replace(form=mark, start=marked.start, end=marked.end)
        empty = empty or Found(mark, [], [], marked.start, marked.end)
    return empty


def marked_text(text: str, mark: str) -> str:
    """Return the content of the last ``mark`` of :data:`MARKS` in ``text`` as written; empty if there is none."""
    marked = _find(text, mark)
    return "" if marked is None else marked.text


def _find(text: str, mark: str) -> Marked | None:
    return find_boxed(text) if mark == "boxed" else find_tagged(text, mark)


def read_fence(text: str, tools: Tools) -> Found | None:
    """Read calls in JSON in code fences, each the whole content of its fence."""
    calls: list[WrittenCall] = []
    place: tuple[int, int] | None = None
    opening: re.Match[str] | None = None
    for fence in islice(_FENCE.finditer(text), 2 * MAX_CALLS):
        if opening is None:
            opening = fence
            continue
        if opening[1].casefold() in _FENCED:
            found = _calls_of_shape(text[opening.end() : fence.start()], tools)
            if found:
                calls += found
                place = (opening.start() if place is None else place[0], fence.end())
        opening = None
    if opening is not None and opening[1].casefold() in _FENCED:
        # Cut off behind the call.
        found = _calls_of_shape(text[opening.end() :], tools)
        if found:
            calls += found
            place = (opening.start() if place is None else place[0], len(text))
    return _read_fence_within(text, tools) if place is None else Found("json", calls, [], *place)


def _read_fence_within(text: str, tools: Tools) -> Found | None:
    """Read calls in JSON in the first fence that does not have its lines to itself."""
    for opening in islice(_FENCE_WITHIN.finditer(text), _MAX_TRIES):
        closing = text.find(opening[1], opening.end())
        end = len(text) if closing == -1 else closing
        calls = _calls_of_shape(text[opening.end() : end], tools)
        if calls:
            return Found("json", calls, [], opening.start(), min(end + len(opening[1]), len(text)))
    return None


def read_json(text: str, tools: Tools) -> Found | None:
    """Read calls in JSON that are the whole text, or its last lines."""
    for number, line in enumerate(_LINE_OF_JSON.finditer(text)):
        if number == _MAX_TRIES:
            break
        # Some models explain a call that they have made.
        calls = _calls_of_shape(text[line.start() :], tools, with_prose=line.start() == 0)
        if not calls and _is_cut_off(text, line.start(), _OPENED_JSON, _BRACES, tools):
            calls = [WrittenCall(None, text[line.start() :].strip())]
        if calls:
            return Found("json", calls, [], line.start(), len(text))
    return None


def read_python(text: str, tools: Tools) -> Found | None:
    """Read calls of Python that are the whole text, or its last lines: in a list, or of known tools."""
    for number, line in enumerate(_LINE_OF_PYTHON.finditer(text)):
        if number == _MAX_TRIES:
            break
        # A fence around the last lines.
        written = _PYTHON_FENCE.sub("", text[line.end() :]).strip()
        calls, rest = python_calls(written, tools)
        in_list = written.startswith("[")
        if calls and not rest and (in_list or all(call.name in tools for call in calls)):
            return Found("pythonic", calls, [], line.end(), len(text))
        if _is_cut_off(text, line.end(), _OPENED_PYTHON, _PARENTHESES, tools):
            return Found("pythonic", [WrittenCall(None, written)], [], line.end(), len(text))
    return None


def read_name_above_json(text: str, tools: Tools) -> Found | None:
    """Read GLM-4's form: the name of a tool on its own line, and JSON below it."""
    head = _NAME_ABOVE_JSON.match(text)
    if head is None or (tools and clean_name(head[1], tools) not in tools):
        return None
    try:
        arguments = read_value(text[head.end() :])
    except MalformedError:
        arguments = text[head.end() :]
    return Found("glm", [WrittenCall(head[1], arguments)], [], 0, len(text))


def read_name_before_json(text: str, tools: Tools) -> Found | None:
    """Read the form of Mistral and Kimi without its tokens: names of known tools, each with JSON right behind it."""
    calls: list[WrittenCall] = []
    begin = position = 0
    while len(calls) < MAX_CALLS and position < len(text):
        head = _NAME_BEFORE_JSON.match(text, position)
        if head is None or clean_name(head[1], tools) not in tools:
            if calls:
                # Words behind a call: it is not whole.
                calls[-1] = WrittenCall(calls[-1].name, text[begin:])
            break
        begin = head.end()
        try:
            value, position = scan_value(text, begin)
            position = skip_blanks(text, position)
        except MalformedError:
            value, position = text[begin:], len(text)
        calls.append(WrittenCall(head[1], value))
    return Found("mistral", calls, [], 0, len(text)) if calls else None


def read_bare(text: str, tools: Tools) -> Found:
    """Read the content of a mark, or a text without marks: a call in JSON or Python, else moves in words."""
    unfenced = unfence(text)
    for mark, read in (("{", read_json), ("{", read_name_above_json), ("(", read_python)):
        found = read(unfenced, tools) if mark in unfenced else None
        if found is not None:
            return found._replace(start=0, end=len(text))
    return read_words(text, tools)


def read_words(text: str, _: Tools) -> Found:
    """Read the whole text as moves in words."""
    return Found("words", [], words_in(text), 0, len(text))


def words_in(text: str) -> list[str]:
    """Return the moves in a text, unwrapped; empty ones are omitted.

    >>> words_in("**Up** || \\\\boxed{\\\\text{Left}}")
    ['Up', 'Left']
    """
    text = _without_element(unwrap(text))
    if MOVE_SEPARATOR not in text:
        return [word] if (word := _word(text)) else []
    boxed = find_boxed(text)
    if boxed is not None and MOVE_SEPARATOR in boxed.text:
        text = unwrap(boxed.text)
    return [word for part in text.split(MOVE_SEPARATOR, MAX_CALLS)[:MAX_CALLS] if (word := _word(part))]


def _without_element(text: str) -> str:
    """Return the content of an element around the whole text, such as ``<response>up</response>``."""
    element = _ELEMENT.fullmatch(text) if text.startswith("<") else None
    return text if element is None else unwrap(element["inside"])


def _word(text: str) -> str:
    """Return a move: the content of a box within the text, or the whole text."""
    boxed = find_boxed(text)
    return unwrap(text if boxed is None or not boxed.text else boxed.text)


def _calls_of_shape(text: str, tools: Tools, *, with_prose: bool = False) -> list[WrittenCall]:
    """Return the calls in a text of JSON if its first value has the shape of a call, else none."""
    text = text.strip()
    if text[:1] not in ("{", "[") or not is_call(first_value(text), tools):
        return []
    calls, has_prose = scan_calls(text)
    return [] if has_prose and not with_prose else calls


def _is_cut_off(
    text: str, start: int, opening: re.Pattern[str], brackets: re.Pattern[str], tools: Tools
) -> bool:
    """Return true if a call of a known tool opens at ``start`` and never closes: what it holds so far is no answer either."""
    opened = opening.match(text, start)
    if opened is None or clean_name(opened[1], tools) not in tools:
        return False
    depth = 0
    for bracket in brackets.finditer(text, start):
        depth += 1 if bracket[0] in "{[(" else -1
        if depth == 0:
            return False
    return True


def _react_input(text: str, name: str, tools: Tools) -> object:
    """Read an object, or bare text as the only argument of a tool."""
    text = unfence(text)
    tool = tools.get(clean_name(name, tools))
    parameters = list(tool.parameters.get("properties") or ()) if tool is not None else []
    value = first_value(text)
    if isinstance(value, dict):
        return value
    wanted = tool.parameters.get("required") or parameters if tool is not None else []
    if not text or len(wanted) != 1 or text.startswith("{"):
        return text
    return read_texts({wanted[0]: unwrap(text)}, tool)
