"""Grammar of one number with its surroundings, such as unit and currency; any other text is no number.

::

    quantity = {conclusion} {hedge} [sign] {currency} [sign] value ["±" value] {scale} [percent] [unit] [remark]
    value    = whole ["and"] fraction | product
    product  = power [("/" | "\\over") [sign] power | times "10" exponent]
    power    = atom [exponent]
    exponent = ("^" | "**") (integer | "{" integer "}" | "(" integer ")") | superscript
    atom     = numeral | "½" | "\\frac" argument argument | "(" [sign] value ")" | "{" [sign] value "}"
    unit     = words and symbols of units, their exponents, "/" and "·" between them
    remark   = "(" … ")" | "[" … "]", with words in it

All values are exact fractions; numbers and powers are bounded before they are computed.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from verl_agent_env.envs.numeric_answer.tokens import (
    MAX_EXPONENT,
    QuantityToken,
    fraction_value,
    has_decimal_comma,
    numeral_value,
    tokenize,
)
from verl_agent_env.envs.numeric_answer.unit_grammar import skip_remark, skip_unit
from verl_agent_env.envs.numeric_answer.units import (
    ALTERNATIVES,
    APPROXIMATELY,
    ATTACHED_SCALES,
    CONCLUSIONS,
    CURRENCY_CODES,
    CURRENCY_SIGNS,
    MONEY_SCALES,
    PERCENT_WORDS,
    SCALES,
    character_scale,
)

MAX_BITS = 4096
"""Limit of the bits of the numerator and of the denominator of a value."""
_MAX_DEPTH = 8
"""Nesting depth of brackets and fractions."""
_SIGNS = {"-": -1, "+": 1, "minus": -1, "negative": -1, "plus": 1, "positive": 1}
_FRACTIONS = frozenset({"\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\nicefrac", "\\sfrac", "\\flatfrac"})
_TIMES = frozenset({"×", "*", "\\times", "\\cdot", "\\ast", "\\cdotp", "\\bullet", "times"})
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_UNCERTAINTY_SIGNS = frozenset({"±", "\\pm"})


class NotANumberError(ValueError):
    """The tokens are not one number."""


class Quantity(NamedTuple):
    """Number that was read."""

    value: Fraction
    """Value without its percent sign."""
    percent_divisor: int = 1
    """100 for a percent sign, 1000 for ``‰``, else 1."""
    uncertainty: Fraction | None = None
    """Number after ``±``."""


def parse_quantity(text: str, *, uncertain: bool) -> Quantity | None:
    """Parse ``text`` (a result of :func:`plain_text`) as one number; ``None`` if it is anything else.

    Args:
        text: Plain text.
        uncertain: Whether ``3.14 ± 0.01`` is a number.
    """
    try:
        return _QuantityParser(tokenize(text), uncertain).parse()
    except NotANumberError:
        return None


class _QuantityParser:
    """Recursive-descent parser of the tokens; ``_index`` never decreases."""

    __slots__ = ("_depth", "_index", "_tokens", "_uncertain", "_uncertainty")

    def __init__(self, tokens: list[QuantityToken], uncertain: bool) -> None:
        self._tokens = tokens
        self._index = 0
        self._depth = 0
        self._uncertain = uncertain
        self._uncertainty: Fraction | None = None

    # --- the whole --------------------------------------------------------------------------------------------

    def parse(self) -> Quantity:
        self._hedges()
        sign, is_money = self._sign(), False
        while self._currency():
            is_money = True
        if is_money and sign == 0:
            sign = self._sign()
        value = self._value()
        self._read_uncertainty()
        scale = self._scale(is_money)
        divisor = self._percent()
        self._index = skip_unit(self._tokens, self._index)
        if is_money and self._token.text == "/" and self._tokens[self._index + 1].text == "-":
            # Rs. 500/-
            self._index += 2
        remark = self._index
        self._index = skip_remark(self._tokens, remark)
        self._require_same(self._tokens[remark + 1 : self._index - 1], (sign or 1) * value * scale / divisor)
        while self._token.text in (".", ",", ";"):
            self._index += 1
        if self._token.kind != "end":
            raise NotANumberError
        uncertainty = None if self._uncertainty is None else _bounded(self._uncertainty * scale)
        return Quantity(_bounded((sign or 1) * value * scale), divisor, uncertainty)

    def _require_same(self, remark: list[QuantityToken], value: Fraction) -> None:
        """Raise an error if a remark names another number: "5 (or 6)", not "0.5 (or 1/2)"."""
        begin = 0
        while begin < len(remark) and remark[begin].text.casefold() in ALTERNATIVES:
            begin += 1
        if begin == 0 or not any(token.kind in ("numeral", "fraction") for token in remark):
            return
        other = _QuantityParser([*remark[begin:], QuantityToken("end", "", False)], uncertain=False).parse()
        if other.value / other.percent_divisor != value:
            raise NotANumberError

    def _hedges(self) -> None:
        while self._token.text.casefold() in CONCLUSIONS:
            self._index += 1
            self._index += self._token.text == ","
        while self._token.text in ("≈", "~", "=", "\\approx", "\\sim", "\\simeq") or (
            self._token.kind == "word" and self._token.text.casefold() in APPROXIMATELY
        ):
            self._index += 1
            if self._tokens[self._index - 1].text.casefold() in ("approx", "ca") and self._token.text == ".":
                self._index += 1

    def _sign(self) -> int:
        """Consume a sign and return it; 0 if there is none."""
        sign = _SIGNS.get(self._token.text.casefold(), 0)
        self._index += abs(sign)
        return sign

    def _currency(self) -> bool:
        token = self._token
        is_code = token.kind == "word" and token.text.casefold() in CURRENCY_CODES
        if not (is_code or token.text in CURRENCY_SIGNS):
            return False
        self._index += 1
        if is_code and self._token.text == ".":
            self._index += 1
        return True

    def _read_uncertainty(self) -> None:
        """Consume ``± 0.01``, also written ``\\pm``, ``+/-`` and ``+-``."""
        width = 1 if self._token.text in _UNCERTAINTY_SIGNS else 0
        if self._token.text == "+":
            spelling = "".join(token.text for token in self._tokens[self._index : self._index + 3])
            width = 3 if spelling == "+/-" else 2 if spelling.startswith("+-") else 0
        if width == 0:
            return
        if not self._uncertain or self._uncertainty is not None:
            raise NotANumberError
        self._index += width
        self._uncertainty = self._product()

    def _scale(self, is_money: bool) -> int:
        """Consume ``million``, ``k`` and the like and return their factor."""
        scale = 1
        for _ in range(2):
            token = self._token
            if token.kind != "word":
                break
            factor = SCALES.get(token.text.casefold())
            if factor is None and is_money:
                factor = MONEY_SCALES.get(token.text)
            if factor is None and not token.is_apart:
                factor = ATTACHED_SCALES.get(token.text)
            if factor is not None:
                self._index += 1
            else:
                factor, unit = character_scale(token.text)
                if factor == 1:
                    break
                if unit:
                    self._tokens[self._index] = token._replace(text=unit)
                else:
                    self._index += 1
            scale *= factor
        return scale

    def _percent(self) -> int:
        token = self._token
        if token.text in ("%", "‰"):
            self._index += 1
            return 100 if token.text == "%" else 1000
        if token.kind != "word":
            return 1
        word = token.text.casefold()
        if word == "per" and self._tokens[self._index + 1].text.casefold() in ("cent", "cents"):
            self._index += 2
            return 100
        if word in PERCENT_WORDS:
            self._index += 1
            return 100
        return 1

    # --- values -----------------------------------------------------------------------------------------------

    def _value(self) -> Fraction:
        whole = self._token
        left = self._product()
        if whole.kind != "numeral" or not whole.text.isdigit() or self._tokens[self._index - 1] is not whole:
            return left
        part = self._proper_part()
        return left if part is None else left + part

    def _proper_part(self) -> Fraction | None:
        """Parse the fraction of a mixed number, after its whole number."""
        start = self._index
        joined = self._token.text in ("&", "and")
        self._index += joined
        token = self._token
        if token.kind == "fraction" or (token.text in _FRACTIONS and self._has_numbers()):
            part = self._atom()
        elif token.kind == "numeral" and token.is_apart and self._tokens[self._index + 1].text == "/":
            part = self._product()
        elif joined and token.text in ("a", "one") and self._tokens[self._index + 1].text == "half":
            self._index += 2
            part = Fraction(1, 2)
        else:
            self._index = start
            return None
        if not 0 < part < 1:
            raise NotANumberError
        return part

    def _product(self) -> Fraction:
        """Parse a fraction, a number times a power of ten, or a single number."""
        left = self._power()
        token = self._token
        is_dash = [each.text for each in self._tokens[self._index + 1 : self._index + 3]] == ["-", ""]
        if token.text in ("/", "\\over") and not is_dash and self._is_number_next():
            self._index += 1
            sign = self._sign() or 1
            right = self._power()
            if right == 0 or self._token.text in ("/", "\\over"):
                raise NotANumberError
            return _bounded(sign * left / right)
        if token.text in _TIMES and self._is_number_next():
            self._index += 1
            if self._token.text != "10":
                raise NotANumberError
            base = self._index
            right = self._power()
            if self._index == base + 1:
                raise NotANumberError
            if self._uncertainty is not None:
                self._uncertainty = _bounded(self._uncertainty * right)
            return _bounded(left * right)
        return left

    def _has_numbers(self) -> bool:
        """Return true if the ``\\frac`` here holds numbers; others hold units."""
        first = self._tokens[self._index + 1]
        # The end mark is the last token.
        return first.kind == "numeral" or (
            first.text == "{" and self._tokens[self._index + 2].kind == "numeral"
        )

    def _is_number_next(self) -> bool:
        """Return true if a number may follow the token here; in ``5 / s`` and ``5 · m`` a unit follows."""
        following = self._tokens[self._index + 1]
        return following.kind in ("numeral", "fraction") or following.text in (
            "-",
            "+",
            "(",
            "{",
            *_FRACTIONS,
        )

    def _power(self) -> Fraction:
        base = self._atom()
        exponent = self._exponent()
        if exponent is None:
            return base
        if abs(exponent) > MAX_EXPONENT or (base == 0 and exponent < 0):
            raise NotANumberError
        # A bounded base and exponent: some milliseconds at most.
        return _bounded(base**exponent)

    def _exponent(self) -> int | None:
        token = self._token
        if token.kind == "superscript":
            self._index += 1
            return _integer(token.text)
        if token.text not in ("^", "**"):
            return None
        following = self._tokens[self._index + 1]
        if following.text == "{" and self._tokens[self._index + 2].text in ("\\circ", "°"):
            return None
        if following.text in ("\\circ", "°", "\\degree"):
            # 90^\circ is an angle.
            return None
        self._index += 1
        closing = _CLOSING.get(self._token.text)
        self._index += closing is not None
        sign = self._sign() or 1
        digits = self._token
        if digits.kind != "numeral":
            raise NotANumberError
        self._index += 1
        if closing is not None:
            self._expect(closing)
        if self._token.text in ("^", "**") or self._token.kind == "superscript":
            raise NotANumberError
        return sign * _integer(digits.text)

    def _atom(self) -> Fraction:
        token = self._token
        if token.kind == "numeral":
            self._index += 1
            value = numeral_value(token.text)
            if value is None:
                raise NotANumberError
            return value
        if token.kind == "fraction":
            self._index += 1
            return fraction_value(token.text)
        if token.text in _FRACTIONS:
            return self._latex_fraction()
        if token.text in _CLOSING:
            inside = self._tokens[self._index + 1]
            if inside.text in _SIGNS:
                inside = self._tokens[self._index + 2]
            is_pair = has_decimal_comma(inside.text) or (token.text != "{" and "," in inside.text)
            if inside.kind == "numeral" and is_pair:
                # (1,2) and (1,200) are pairs, and \{1,2\} is a set.
                raise NotANumberError
            return self._bracketed()
        raise NotANumberError

    def _bracketed(self) -> Fraction:
        """Parse a value in brackets, with its sign."""
        closing = _CLOSING[self._token.text]
        self._index += 1
        self._enter()
        sign = self._sign() or 1
        value = sign * self._value()
        self._read_uncertainty()
        self._depth -= 1
        self._expect(closing)
        return _bounded(value)

    def _latex_fraction(self) -> Fraction:
        self._index += 1
        token = self._token
        if token.kind == "numeral" and len(token.text) == 2 and token.text.isdigit():
            # \frac12
            self._index += 1
            above, below = Fraction(int(token.text[0])), Fraction(int(token.text[1]))
        else:
            above, below = self._argument(), self._argument()
        if below == 0:
            raise NotANumberError
        return _bounded(above / below)

    def _argument(self) -> Fraction:
        """Parse an argument of ``\\frac``: a braced value, or one digit."""
        token = self._token
        if token.text == "{":
            return self._bracketed()
        if token.kind == "numeral" and len(token.text) == 1:
            self._index += 1
            return Fraction(int(token.text))
        raise NotANumberError

    # --- tokens -----------------------------------------------------------------------------------------------

    @property
    def _token(self) -> QuantityToken:
        return self._tokens[self._index]

    def _expect(self, text: str) -> None:
        if self._token.text != text:
            raise NotANumberError
        self._index += 1

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotANumberError


def _integer(text: str) -> int:
    if len(text) > 4 or not text.lstrip("+-").isdigit():
        raise NotANumberError
    return int(text)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise NotANumberError
    return value
