"""Stated final answers of a text without marks.

Recognized are ``#### 42`` (GSM8K), "The final answer is 42", "Answer: 42", "Result = 42" and the same in some other languages, of
which the last in the text counts; else, for a number or an expression, the part of the last line after its last ``=``, or
the whole last line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

MAX_SEARCHED_CHARS = 4096
"""Characters at the end of a text that are searched for a final answer."""

_CUE = re.compile(
    r"^[ \t>]*####[ \t]*(?=\S)"
    r"|(?<!\w)(?:answers?|ans|results?|solutions?|conclusion|r[ée]ponse|antwort|ergebnis|respuesta|resultado|resposta|risposta"
    r"|(?:correct|right|best) (?:option|choice))"
    r"(?!\w)[^\n.:=≈]{0,80}?(?:[:=≈]|\\approx|(?<!\w)(?:is|are|equals|be|was|comes to|ist|lautet|est|es|é|è)(?!\w):?)"
    r"|(?:答案|答え|答|정답|ответ|उत्तर)[^\n.:：=0-9]{0,12}?(?:是|为|為|は|은|[:：=])",
    re.IGNORECASE | re.MULTILINE,
)
# What is said about an answer, and is none.
_COMMENT = re.compile(
    r"(?:indeed |also |now |most |very |quite |therefore |thus )*(?:correct|right|reasonable|valid|consistent|verified|plausible"
    r"|confirmed|as expected|expected|given|shown|found|obtained|what|that|because|as follows|the following|below|above)(?!\w)",
    re.IGNORECASE,
)
# "The answer is …", with nothing between that could be the answer.
_PLAIN_CUE = re.compile(r"\w+\W+(?:is|are)\W*|\w+\s*[:=]\W*", re.IGNORECASE)
# "=> 42", and a quotation of Markdown; "> 42" compares.
_OPENED = re.compile(r"(?:[\s:*_]|(?<=[=\n-])>)*+")
_BEHIND = " \t*_`✅✓✔☑\ufe0f🎉🎯👍😊🙂"
_DISPLAYS = {"\\[": "\\]", "$$": "$$", "```": "```"}
# Not behind the dot of an abbreviation.
_SENTENCE_END = re.compile(
    r"(?<!\bapprox)(?<!\bca)(?<!\b[Rr]s)(?<!\bFr)(?<!\b[Nn]o)(?<!\bsq)(?<!\bcu)(?<!\bvs)(?<!\b[A-Za-z])[.?](?=[\s*_`]|$)|[。？]"
    # "**42**!"; "4!" is a number.
    r"|(?<=[*_`$])!(?=\s|$)"
)
# "42. No, it is 41."
_TAKEN_BACK = re.compile(
    r"[\s.*_`!…]*+(?:wait[\s,.!…-]*+)?(?:no(?=\s*+[,.;:!…–—-]|\s+(?:wait|it|that))|nope|sorry|oops|correction"
    r"|i mean(?:t)?|make that|scratch that)(?!\w)",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[,;]\s+(?=[^\W\d])|\s(?:because|since|as|which|so|hence|therefore)(?!\w)|\s[–—-]\s(?=[^\W\d])|，(?=\D)",
    re.IGNORECASE,
)
_CHANGES = re.compile(
    r"[\s,;–—-]*(?:or|and|but|not|maybe|perhaps|possibly|unless|if|else|plus|minus|times"
    r"|no|nope|wait|actually|sorry|oops|hmm|rather|correction|i mean|make that|scratch)(?!\w)",
    re.IGNORECASE,
)
# "The answer cannot be 5", or "might be 5"; "whether the answer is 5", "the wrong answer is 5".
_DENIAL = re.compile(r"(?<!\w)(?:not|never|cannot|could|may|might|\w+n['’]t)(?!\w)", re.IGNORECASE)
_OPEN_QUESTION = re.compile(
    r"(?<!\w)(?:(?:whether|if|unless|let|suppos(?:e|ing)|assum(?:e|ing)|doubt)(?:\s+that)?"
    r"(?:\s+(?:the|my|this|our|your|its|final|correct|right|true|real))*+"
    r"|wrong|incorrect|false|previous|earlier|other|intermediate)\s*+\Z",
    re.IGNORECASE,
)
_MAX_QUESTION_CHARS = 80
# Arrows before a result.
_ARROWS = re.compile(r"(?:\s*+(?:=+>|-+>|[→⇒⟹↦]|\\(?:Rightarrow|rightarrow|implies|to)(?![A-Za-z])))++\s*+")
# "Let x = 5" says what is given; "if x = 5, then y = 6" may end with a result.
_GIVEN = re.compile(
    r"\W*+(?:let|suppose|assume|assuming|say|given|if|when|where|set|consider|guess|try)(?!\w)[^,;]*+\Z",
    re.IGNORECASE,
)
# "2x = 6" and "x + 1 = 6" are equations of an unknown, "a + b = 6" and "6 m * 7 m = 42" lead to a result.
_HAS_UNKNOWN = re.compile(
    r"(?<![A-Za-z\\])(?:[0-9][xyzn](?![A-Za-z])|[xyzn]\s*+(?:[-+*/^×·÷]|\\(?:cdot|times))\s*+[0-9]"
    r"|[0-9]\s*+(?:[-+*/×·÷]|\\(?:cdot|times))\s*+[xyzn](?![A-Za-z]))"
)
_COMPARES = ("<", ">", "!", "≤", "≥", "≠", "\\neq", "\\ne", "\\le", "\\ge", "\\leq", "\\geq", "~")
# "x = 42 or x = 43", "x = 1, y = 2"; not "6 * 7 = 42, so x = 42".
_ANOTHER = re.compile(
    r"(?:[,;&]|(?<!\w)(?:or|and)(?!\w)|\\(?:text|quad|qquad))"
    r"(?!\s*(?:so|thus|hence|therefore|then|giving|gives|we|which|that|i\.e\.|and (?:so|thus|therefore))(?!\w))",
    re.IGNORECASE,
)
_IS_DECORATION = re.compile(r"[\s`$\\\[\]()*_#=~|-]*")


def stated_answers(text: str, is_answer: Callable[[str], object] | None = None) -> tuple[str, ...]:
    """Return the answer that ``text`` states, in full and without additions; empty if there is none.

    Args:
        text: Text without marks.
        is_answer: Tells whether a sentence is an answer where "right" may be one: "The answer is right" then states it, if
            the text states no other.
    """
    tail = text[-MAX_SEARCHED_CHARS:]
    found = ambiguous = None
    for cue in _CUE.finditer(tail):
        before = tail[max(0, cue.start() - _MAX_QUESTION_CHARS) : cue.start()]
        sentence = _sentence(tail, cue.end())
        if not sentence or _DENIAL.search(cue[0]) or _OPEN_QUESTION.search(before):
            continue
        if not _COMMENT.match(sentence):
            found = sentence
        elif is_answer is not None and _PLAIN_CUE.fullmatch(cue[0]) and is_answer(sentence):
            ambiguous = sentence
    stated = found or ambiguous
    return () if stated is None else tuple(_shortened(stated))


def closing_answers(text: str) -> tuple[str, ...]:
    """Return the result of the last line of ``text``: the line, and the part after its last ``=``."""
    for line in reversed(text[-MAX_SEARCHED_CHARS:].splitlines()):
        if _IS_DECORATION.fullmatch(line) is None:
            break
    else:
        return ()
    if _GIVEN.match(line):
        return ()
    arrows = _ARROWS.match(line)
    line = line.strip() if arrows is None else line[arrows.end() :].strip()
    before, sign, result = line.rpartition("=")
    _, is_second, between = before.rpartition("=")
    is_other = is_second and _ANOTHER.search(between)
    is_unsolved = _HAS_UNKNOWN.search(between) or before.rstrip().endswith(_COMPARES)
    return (line, result) if sign and not is_other and not is_unsolved else (line,)


def _sentence(text: str, start: int) -> str:
    """Return the sentence or displayed formula that begins at ``start``, at most to the end of the line.

    Empty if it is a question, or if the next words take it back.
    """
    opened = _OPENED.match(text, start)
    start = start if opened is None else opened.end()
    closing = _DISPLAYS.get(text[start : start + 2]) or _DISPLAYS.get(text[start : start + 3])
    if closing is not None:
        end = text.find(closing, start + len(closing))
        return text[start + len(closing) : end if end != -1 else len(text)].strip()
    line = text[start:].partition("\n")[0]
    end_of_sentence = _SENTENCE_END.search(line)
    end = len(line) if end_of_sentence is None else end_of_sentence.start()
    sentence = line[:end]
    is_question = line[: end + 1].rstrip(" \t*_`").endswith(("?", "？"))
    if is_question or _TAKEN_BACK.match(text, start + end) is not None:
        return ""
    # The emphasis that began before the sentence ends behind it.
    return (
        sentence.strip(_BEHIND)
        if opened is not None and "*" in opened[0]
        else sentence.rstrip(_BEHIND.replace("`", ""))
    )


def _shortened(sentence: str) -> Iterator[str]:
    """Return ``sentence``, and the same without a reason or a remark at its end; an alternative is no remark."""
    yield sentence
    end = _CLAUSE_END.search(sentence)
    if end is not None and not _CHANGES.match(sentence, end.start()):
        yield sentence[: end.start()].strip()
