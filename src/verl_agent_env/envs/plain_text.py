"""Normalization of the characters and the LaTeX of a formula before it is split into tokens.

Only spelling changes here: full-width and other decimal digits become ASCII digits, all dashes ``-``, all blanks one
blank, and LaTeX that only affects typesetting (``\\text{cm}``, ``\\left(``, ``1{,}234``) is replaced by its content. Superscripts
and fractions such as ``½`` stay, because ``10²`` is not ``102``.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SAME_CHARACTERS = {
    **dict.fromkeys("−–—―‐‑‒﹣－˗➖", "-"),
    **dict.fromkeys("＋﬩➕", "+"),
    **dict.fromkeys("⁄∕⧸", "/"),
    **dict.fromkeys("×⋅·∙•✕✖∗⨯⨉", "×"),
    **dict.fromkeys("’‘ʼ‛′＇´", "'"),
    **dict.fromkeys("∼～˜", "~"),
    **dict.fromkeys("≃≅≐≒∽", "≈"),
    **dict.fromkeys("⟨〈", "("),
    **dict.fromkeys("⟩〉", ")"),
    "٫": ".",
    "٬": ",",
    "。": ".",
    "…": "...",
    "º": "°",
    "∘": "°",
    "µ": "μ",
    "Ω": "Ω",
    "Å": "Å",
    "⏨": "e",
    "＝": "=",
    "：": ":",
}
# Their Unicode decomposition keeps the meaning; that of a superscript or of "½" would lose it.
_TYPOGRAPHIC = ("<wide>", "<narrow>", "<font>", "<small>", "<square>", "<noBreak>", "<compat>")

_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUBSCRIPT = re.compile(r"(?<=[^\W\d_])[₀-₉]+|(?<=[^\W\d_])_(?:\{([0-9]{1,3})\}|([0-9]))")

# LaTeX that leaves its argument as it is.
_WRAPPING_COMMANDS = (
    r"(?:text(?:rm|bf|it|sf|tt|normal|up|md)?|math(?:rm|bf|it|sf|tt|bb|cal|normal)|operatorname\*?|mbox|hbox|emph|underline|bm"
    r"|boldsymbol|textcolor\{[a-z]*\}|boxed|fbox|unit|si|SI|qty|num|ensuremath)"
)
_LATEX = re.compile(
    rf"\\{_WRAPPING_COMMANDS}\s*(?=\{{)|(?P<drop>\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle"
    r"|limits|rm|bf|it|tiny|small|large|Large|LARGE|huge|Huge)(?![A-Za-z])|\\[()\[\]!])|(?P<newline>\\\\)"
    r"|(?P<blank>\\(?:quad|qquad|thinspace|enspace|space|hspace\{[^{}]*\})(?![A-Za-z])|\\[,;:> ]|(?<=[0-9A-Za-z{}])~)"
    r"|(?P<mark>\{[,.]\})|(?P<escaped>\\[%$#&_{}])|(?P<brace>[{}])"
)
_BLANKS = re.compile(r"\s+")


def plain_text(text: str) -> str:
    """Normalize ``text`` to one spelling for each symbol; linear in its length, and never an error."""
    text = plain_characters(text)
    if "\\" in text or "{" in text or "~" in text:
        text = _without_typesetting(text)
    text = _BLANKS.sub(" ", text).strip()
    return _SUBSCRIPT.sub(_attached_digits, text) if not text.isascii() or "_" in text else text


def plain_characters(text: str) -> str:
    """Replace typographic characters by their plain form."""
    return text if text.isascii() else "".join(map(_plain_character, text))


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    if character in _SAME_CHARACTERS:
        return _SAME_CHARACTERS[character]
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category in ("Zs", "Zl", "Zp"):
        return " "
    # Zero-width blanks, marks of direction, soft hyphens, variation selectors.
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    decomposition = unicodedata.decomposition(character)
    kind, _, codes = decomposition.partition(" ")
    if kind not in _TYPOGRAPHIC:
        return character
    shown = "".join(chr(int(code, 16)) for code in codes.split())
    return "".join(map(_SAME_CHARACTERS.get, shown, shown))


def _attached_digits(match: re.Match[str]) -> str:
    """Return the digits of ``CO₂`` and ``CO_2``, as in ``CO2``. A subscript after a digit names a base, and is kept."""
    return match[1] or match[2] or match[0].translate(_SUBSCRIPTS)


def _without_typesetting(text: str) -> str:
    """Remove commands that only affect typesetting, with their braces."""
    parts: list[str] = []
    wrapping: list[bool] = []
    opens_wrapping = False
    position = 0
    for match in _LATEX.finditer(text):
        parts.append(text[position : match.start()])
        position = match.end()
        kind = match.lastgroup
        if kind is None:
            opens_wrapping = True
            continue
        if kind == "brace":
            parts.append(_brace(match[0], wrapping, opens_wrapping))
        elif kind == "blank":
            parts.append(" ")
        elif kind == "newline":
            parts.append("; ")
        elif kind in ("mark", "escaped"):
            parts.append(match[0][1])
        opens_wrapping = False
    parts.append(text[position:])
    return "".join(parts)


def _brace(brace: str, wrapping: list[bool], opens_wrapping: bool) -> str:
    """Return the replacement of a brace: a blank for a removed command, else the brace itself."""
    if brace == "{":
        wrapping.append(opens_wrapping)
        return " " if opens_wrapping else "{"
    return " " if wrapping and wrapping.pop() else "}"
