"""Words that may surround a number: scales, currencies, symbols of units, and words that are not units.

A unit need not be known: ``42 apples`` is 42. But a word of one or two letters may be a variable (``5x``), so only known
symbols count, and words that calculate, compare, deny or name another number never do.
"""

from __future__ import annotations

import re
import unicodedata


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "thousands": 10**3,
    "lakh": 10**5,
    "lakhs": 10**5,
    "lac": 10**5,
    "million": 10**6,
    "millions": 10**6,
    "mio": 10**6,
    "mln": 10**6,
    "crore": 10**7,
    "crores": 10**7,
    "billion": 10**9,
    "billions": 10**9,
    "bn": 10**9,
    "bln": 10**9,
    "trillion": 10**12,
    "trillions": 10**12,
    "quadrillion": 10**15,
    "dozen": 12,
}
"""Scales by their words in lower case."""

ATTACHED_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "MM": 10**6, "B": 10**9}
"""Letters that scale the number they touch; after a blank they are units (kelvin, molar, byte)."""

MONEY_SCALES = {**ATTACHED_SCALES, "m": 10**6, "b": 10**9, "t": 10**12, "T": 10**12}
"""Letters that scale an amount of money, touching or not."""

CHARACTER_SCALES = {
    "百": 10**2,
    "千": 10**3,
    "万": 10**4,
    "萬": 10**4,
    "亿": 10**8,
    "億": 10**8,
    "만": 10**4,
    "억": 10**8,
}
"""Chinese, Japanese and Korean scales, which form one word with the unit."""

PERCENT_WORDS = frozenset({"percent", "pct", "percentage", "prozent", "percents"})

CURRENCY_CODES = _words(
    "aud brl cad chf cny czk dkk eur gbp hkd huf idr inr jpy krw mxn myr nok nzd php pln rmb rub sek sgd thb try twd usd"
    " us rs kr zł nt hk au nz sg ca"
)
"""Codes, and the letters before ``$``, that may precede an amount."""

CURRENCY_SIGNS = frozenset("$€£¥₹₽₩₿¢₺₴₫₪₦₱฿₡₲₵₸₼₾元円원")

APPROXIMATELY = frozenset(
    {"about", "approximately", "approx", "around", "roughly", "circa", "ca", "exactly", "just", "only"}
)
"""Words before a number that do not change it."""

ALTERNATIVES = frozenset(
    {"or", "and", "maybe", "perhaps", "possibly", "but", "could", "be", "also", "either"}
)
"""Words in a remark that name another number, or the same one in another form."""

CONCLUSIONS = frozenset({"so", "thus", "hence", "therefore", "finally"})
"""Words that introduce a result."""

_PREFIXED = _words("m g s l L A V W N J Pa Hz eV B bit mol cal C F H T Wh VA bar rad lm lx Ω M")
_PREFIXES = ("", *_words("k M G T m μ u n p c d h"))
_PLAIN_SYMBOLS = _words(
    "h min hr hrs sec secs yr yrs wk wks mo mos in ft yd mi lb lbs oz pt qt gal fl cu sq K t ha ac px kn kt mph kph rpm"
    " Å fps bpm dB ppm ppb psi atm BTU am pm pc pcs ea kWh sr Bq Gy Sv kat ct cts"
)
SYMBOLS = frozenset(prefix + unit for unit in _PREFIXED for prefix in _PREFIXES) | _PLAIN_SYMBOLS
"""Symbols of units with one or two letters, and some longer ones."""

UNIT_COMMANDS = frozenset(
    {"\\circ", "\\degree", "\\textdegree", "\\Omega", "\\ohm", "\\mu", "\\celsius", "\\angstrom"}
)

PREFIXES = _words("k M G m μ n p")
"""Letters that may precede the command of a unit, as in ``k\\Omega``."""

_JOINING_WORDS = frozenset({"of", "in", "a", "an", "at", "on", "de"})
CALCULATIONS = _words(
    "plus minus times over divided multiplied factorial choose mod modulo root sqrt exp log ln lg sin cos tan cot csc"
    " arcsin arccos arctan sinh cosh tanh pi tau phi theta alpha beta gamma lambda sigma abs max gcd lcm det xyz abc"
)
"""Words that calculate, and names of quantities."""

# With one of these words the text is not "this many of that".
_NO_UNITS = (CALCULATIONS - {"times"}) | _words(
    # other numbers, and parts of them
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty"
    " ninety half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth"
    " eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths infinity infinite inf nan point base"
    " remainder"
    # comparison and choice
    " least most or and nor to through till until versus vs between than below under either both"
    # denial, condition, sentences
    " not never isn't aren't wasn't don't doesn't can't cannot wrong incorrect false if else unless except but because"
    " since so then while when where which that was were been is are be would could should might may maybe perhaps"
    " possibly probably unknown undefined"
)
# "5 meters squared" has a unit, "5 squared" is 25.
_POWERS = frozenset({"squared", "cubed"})
_NO_CHARACTERS = frozenset("或和到不非又")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?[0-9]{0,3}){1,8}")


def is_unit(word: str) -> bool:
    """Return true if ``word`` may follow a number as its unit: letters, some of them with digits."""
    letters = word.rstrip("0123456789")
    if letters in SYMBOLS:
        return word[len(letters) :] in ("", "2", "3")
    if not word.isalpha() or word.casefold() in _NO_UNITS or word.casefold() in _POWERS:
        return False
    if unicodedata.category(word[0]) == "Lo":
        return not _NO_CHARACTERS & set(word)
    return len(word) >= 3 or word.casefold() in CURRENCY_CODES


def continues_unit(word: str) -> bool:
    """Return true if ``word`` may follow a unit: another unit, or a substance such as ``CO2``."""
    return is_unit(word) or word.casefold() in _POWERS or _FORMULA.fullmatch(word) is not None


def joins_units(word: str) -> bool:
    """Return true if ``word`` may connect a number or a unit with more of the unit, as in ``g of CO2`` and ``$5 a day``."""
    return word.casefold() in _JOINING_WORDS


def character_scale(word: str) -> tuple[int, str]:
    """Return the scale that ``word`` begins with in Chinese, Japanese or Korean (else 1), and the rest of the word."""
    scale, start = 1, 0
    while start < len(word) and word[start] in CHARACTER_SCALES:
        scale *= CHARACTER_SCALES[word[start]]
        start += 1
    return scale, word[start:]
