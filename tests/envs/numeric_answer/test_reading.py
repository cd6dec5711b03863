"""Numbers are read exactly and whole, whatever their dress; what is not one number is none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cpu import assert_within
from verl_agent_env.envs.numeric_answer import read_number, read_quantity, values_of
from verl_agent_env.envs.numeric_answer.reading import MAX_ANSWER_CHARS

NUMBERS: dict[str, tuple[str, ...]] = {
    "1/6": (
        "0.1666...",
        "0.1666…",
        r"0.1666\ldots",
        "0.1(6)",
        r"0.1\overline{6}",
        r"0.1\dot{6}",
        r"1 \over 6",
        "16.666…%",
    ),
    "1/7": ("0.142857142857142857...", "0.(142857)", r"{1 \over 7}"),
    "5.2": (
        "5.2 (2 s.f.)",
        "5.2 (or 26/5)",
        "5.2 (2 dp)",
        "Therefore, 5.2.",
        "So 5.2 m",
        "We get 5.2",
        "It's 5.2.",
        "### 5.2",
        "* 5.2",
    ),
    "7": (
        "7",
        "+7",
        " 7 ",
        "007",
        "7.",
        "7.0",
        "(7)",
        "[7]",
        "{7}",
        "**7**",
        "`7`",
        '"7"',
        "“7”",
        "$7$",
        r"\(7\)",
        r"\[7\]",
        "$x=7$",
    ),
    "-7": (
        "-7",
        "−7",
        "–7",
        "- 7",
        "minus 7",
        "negative 7",
        "－7",
        "(-7)",
        "-(7)",
        r"{-7}",
        "⁻7".replace("⁻", "-"),
        "-$7",
        "$-7",
        "−€7",
    ),
    "5000": (
        *(
            r"5\times10^3",
            r"5 \times 10^{3}",
            "5 x 10^{3}",
            "5x10^3",
            "5X10^3",
            "5×10^3",
            "5 × 10³",
            "5·10³",
            "5⋅10³",
        ),
        *(
            "5*10^3",
            "5 * 10**3",
            r"5\cdot 10^{3}",
            r"5 \ast 10^3",
            "5e3",
            "5E3",
            "5E+03",
            "5.0e3",
            "5 times 10^3",
            "5000",
        ),
        *(
            "5×10^(3)",
            "5 × 10^{+3}",
            "5⏨3",
            "0.5 × 10^4",
            "5,000",
            "5 000",
            "5\u202f000",
            "5'000",
            "5 thousand",
            "5k",
            "5K",
        ),
    ),
    "1/200": (
        "5e-3",
        "5×10⁻³",
        r"5\times 10^{-3}",
        "5 x 10^-3",
        "5E−3",
        "0.005",
        "0,005",
        "5·10^{−3}",
        "0.5%",
        "5‰",
    ),
    "1000": ("10^3", "10³", "10^{3}", "10 ^ 3", "10**3", "1e3", "1,000", "1 thousand"),
    "1024": ("2^{10}", "2^10", "2**10", "2¹⁰", "2 ^ {10}", "4^5", "(2)^{10}"),
    "-4": ("-2^2", "-2²"),
    "4": ("(-2)^2", r"\left(-2\right)^2", "(1/2)^{-2}"),
    "1/2": (
        *(
            r"\frac12",
            r"\frac{1}{2}",
            r"\frac1{2}",
            r"\frac 1 2",
            r"\dfrac{1}{2}",
            r"\tfrac12",
            r"\cfrac{1}{2}",
        ),
        *(
            r"\nicefrac{1}{2}",
            r"\sfrac{1}{2}",
            r"{1 \over 2}",
            r"\frac{-1}{-2}",
            r"\left(\frac{1}{2}\right)",
            "1/2",
            "1 / 2",
        ),
        *(
            "1⁄2",
            "1∕2",
            "½",
            ".5",
            "0.5",
            "0,5",
            "50%",
            "50 %",
            r"50\%",
            "50 percent",
            "50 per cent",
            "50 pct",
            "５０％",
        ),
        *(r"\frac{1}{2} = 0.5", "0.50", r"\frac{0.5}{1}", "1/2 = 50%"),
    ),
    "-3/4": (r"\frac{-3}{4}", r"-\frac{3}{4}", r"\frac{3}{-4}", "-3/4", "3/-4", "-¾", "−3⁄4", "minus 3/4"),
    "3/2": ("1 1/2", "1½", "1 ½", r"1\frac{1}{2}", r"1 \frac12", "1 and 1/2", "1 and a half", r"1\,\tfrac12"),
    "-3/2": ("-1 1/2", "-1½", r"-1\frac{1}{2}"),
    "1/3": (r"0.\overline{3}", r"0.\bar{3}", "⅓", r"\frac{1}{3} \approx 0.333", "1/3"),
    "1234567": (
        *(
            "1,234,567",
            "12,34,567",
            "1 234 567",
            "1\u2009234\u2009567",
            "1\u00a0234\u00a0567",
            "1'234'567",
            "1’234’567",
        ),
        *(
            "1.234.567",
            "1_234_567",
            r"1{,}234{,}567",
            r"1\,234\,567",
            "1.234567 million",
            "１，２３４，５６７",
            "$1,234,567",
        ),
    ),
    "1234.5": ("1,234.5", "1.234,5", "1 234,5", "1 234.5", "1'234.5", "1234,5", "€1.234,50", "1.234,50 €"),
    "0.123": ("0,123", "0.123", ".123"),
    "1234": ("1,234", "1 234"),
    "3.14": ("3,14", "3.14", "3.14..."),
    "42": (
        *(
            "42",
            "４２",
            "𝟒𝟐",
            "٤٢",
            "४२",
            "\u200b42\u200b",
            "4\u20602",
            "42.",
            "42,",
            r"\text{42}",
            r"\mathbf{42}",
            r"\textbf{42}",
        ),
        *(
            r"\boxed{42}",
            "= 42",
            "≈ 42",
            "~42",
            "about 42",
            "approximately 42",
            "approx. 42",
            "x = 42",
            "x=42",
            "x_1 = 42",
        ),
        *(
            "f(2) = 42",
            r"\angle ABC = 42^\circ",
            "Answer: 42",
            "**Answer:** 42",
            "The answer is 42",
            "The length is 42 m",
            "x: 42",
        ),
        *(
            "42 (since 6 × 7 = 42)",
            "42 (forty-two)",
            "42 [apples]",
            "42 (approximately)",
            "42 (= 6 * 7)",
            "42 m (not 41 m)",
        ),
    ),
    "1500000": (
        "1.5 million",
        "1.5M",
        "$1.5 M",
        "1.5 mio",
        "1,500,000",
        "1.5e6",
        "15 lakh",
        "150万",
        "1 ½ million",
        "$1.5 million",
    ),
    "2000000000": ("2 billion", "2bn", "2 bn", "2B", "20亿", "$2 b"),
}

UNITS = (
    *(
        "5 W/(m·K)",
        "5 J/(kg·°C)",
        r"5\ \mathrm{J/(kg\cdot K)}",
        "5 kg/m^3",
        "5 mg/dL",
        "5 mol dm^{-3}",
        "5 rev/min",
        r"\Large 5",
    ),
    *(
        "5 cm^2",
        "5 m²",
        "5 m2",
        "5cm",
        "5 cm^{2}",
        r"5\text{ cm}^2",
        r"5\ \mathrm{m/s^2}",
        r"5 \mathrm{~cm}",
        "5 km/h",
        "5 m·s⁻¹",
    ),
    *(
        "5 kg m s^{-2}",
        r"5\,\text{cm}\cdot\text{s}^{-1}",
        r"5\,\frac{m}{s}",
        "5 m/s^2",
        "5 N·m",
        r"5\Omega",
        r"5 k\Omega",
        r"5\,\mu m",
    ),
    *(
        "5 °C",
        "5°",
        r"5^\circ",
        r"5^{\circ}",
        r"5^\circ C",
        "5℃",
        "5㎝",
        "5㎡",
        "5 sq. ft.",
        "5 square meters",
        "5 meters squared",
    ),
    *(
        "5 g of CO2",
        "5 g CO₂",
        "5 mol of H2O",
        r"5 g of CO_2",
        "5 apples",
        "5 red marbles",
        "5 miles per hour",
        "$5 a day",
    ),
    *(
        "$5",
        "5$",
        "€5",
        "5 €",
        "£5",
        "5 USD",
        "US$5",
        "Rs. 5",
        "CHF 5",
        r"\$5",
        r"$\$5$",
        "5 dollars",
        "5个",
        "5元",
        "5 руб",
        "5-inch",
    ),
    *(
        "5 foot-pounds",
        "5 more apples",
        "5 times",
        "5e0 m",
        r"\SI{5}{m}",
        r"\num{5}",
        "$5$ apples",
        "**5** apples",
        "5 inches.",
    ),
)

NO_NUMBERS = (
    *(
        "",
        " ",
        ".",
        "-",
        "seven",
        "forty-two",
        "nan",
        "inf",
        "infinity",
        "∞",
        r"\infty",
        "m²",
        "cm",
        "e",
        "i",
        "π",
        "x",
    ),
    # calculations and other expressions
    *(
        r"3\sqrt{2}",
        r"\sqrt{4}",
        r"\pi/2",
        r"2\pi",
        "2π",
        "x^2",
        "5x",
        "5 x",
        "5x^2",
        "3y",
        "2ab",
        "5i",
        "2+3i",
        "4!",
        "5-3",
        "5 − 3",
    ),
    *(
        "3+4",
        "3 × 4",
        r"3 \times 4",
        "3*4",
        "2(3)",
        "5 (3)",
        "2 (x + 1)",
        "2 (x + y)",
        "2 (x)",
        "2(x+1)",
        "5 squared",
        "6÷2",
        "1/2/3",
        "1-1/2",
        "2^{1/2}",
    ),
    *(
        "log 5",
        r"\log 5",
        "5 mod 3",
        "|5|",
        "5 × 11^3",
        r"\frac{a}{2}",
        r"\frac{x+1}{2}",
        "10^3 + 1",
        "5 remainder 2",
        "1 3/2",
        "10₂",
    ),
    # several numbers
    *(
        "1 2",
        "12 34",
        "1, 2",
        "1, 2, 3",
        "1,234,56",
        "1.234.56",
        "(3, 4)",
        "[1, 5]",
        "1;2",
        "3 and 4",
        "2 or 5",
        "x = 1, y = 2",
    ),
    *(
        "(1,2)",
        "[1,2]",
        r"\{1,2\}",
        "10:30",
        "3:4",
        "3 to 5",
        "3 – 5",
        "5 ft 3 in",
        "2 hours 30 minutes",
        "2h 30m",
        "5'3\"",
        "2024-03-04",
        "03/04/2024",
    ),
    *(
        "±5",
        r"\pm 5",
        "3.14 ± 0.01",
        r"3.14 \pm 0.01",
        "3.14 +/- 0.01",
        "1/2 = 0.4",
        "2 + 3 = 5",
        "3x = 12",
        "x^2 = 4",
    ),
    *("3 out of 4", "42 apples and 3 pears", "0x10", "1101_2", "5 half"),
    # not said of a number
    *(
        "> 5",
        "<5",
        "≥ 5",
        r"\geq 5",
        "x < 5",
        "5+",
        "at least 5",
        "5 or more",
        "not 5",
        "5 is wrong",
        "5?",
        "5!",
        "wrong: 5",
        "5 maybe",
    ),
    *("The answer is not 5", "5th", "1st", "#5", "5 because", "--5", "5e", ",5", "5 a", "5 of", "5 m - x"),
    # beyond all bounds
    *(
        "1/0",
        r"\frac{1}{0}",
        "1e999",
        "1e-999999999",
        "9" * 65,
        "10^401",
        "9^{9^9}",
        "9**9**9",
        "((9^400)^400)^400",
        "0^{-1}",
        "(" * 9 + "1" + ")" * 9,
    ),
)


@pytest.mark.parametrize("value", NUMBERS)
def test_number_is_read_exactly_in_every_spelling(value: str) -> None:
    read = {text: read_number(text) for text in NUMBERS[value]}
    assert read == dict.fromkeys(NUMBERS[value], Fraction(value))


@pytest.mark.parametrize("text", UNITS)
def test_unit_and_currency_are_passed_over(text: str) -> None:
    assert read_number(text) == 5


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_not_one_number_is_no_number(text: str) -> None:
    assert read_number(text) is None


def test_letter_behind_a_blank_is_a_unit_and_one_that_touches_scales() -> None:
    assert read_number("300 K") == 300
    assert read_number("300K") == 300_000
    assert read_number("$300 K") == 300_000
    assert read_number("0.5 M") == Fraction(1, 2)


def test_percent_is_divided_ignored_or_both() -> None:
    assert read_number("50%", "divide") == Fraction(1, 2)
    assert read_number("50%", "ignore") == 50
    quantity = read_quantity("50%")
    assert quantity is not None
    assert values_of(quantity, "either") == (Fraction(1, 2), Fraction(50))


@pytest.mark.parametrize(
    ("text", "value", "uncertainty"),
    [
        ("3.14 ± 0.01", "3.14", "0.01"),
        (r"3.14 \pm 0.01", "3.14", "0.01"),
        ("3.14 +/- 0.01 cm", "3.14", "0.01"),
        ("3.14 +- 0.01", "3.14", "0.01"),
        ("(3.14 ± 0.01) cm", "3.14", "0.01"),
        (r"(3.14 \pm 0.01) \times 10^3", "3140", "10"),
        ("3 ± 1 million", "3000000", "1000000"),
    ],
)
def test_uncertainty_is_read_where_it_is_asked_for(text: str, value: str, uncertainty: str) -> None:
    quantity = read_quantity(text, uncertain=True)
    assert quantity is not None
    assert (quantity.value, quantity.uncertainty) == (Fraction(value), Fraction(uncertainty))
    assert read_quantity(text) is None


@pytest.mark.parametrize("text", ["±5", "5 ±", "3 ± 1 ± 1", "3 ± x", r"\pm", "5 +", "5 +/-"])
def test_uncertainty_of_nothing_is_no_number(text: str) -> None:
    assert read_quantity(text, uncertain=True) is None


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_reads_back(value: Fraction) -> None:
    assert read_number(str(value)) == value
    assert read_number(rf"\frac{{{value.numerator}}}{{{value.denominator}}}") == value


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(",_ '\u2009\u00a0"),
    st.sampled_from(["", " apples", " cm²", "."]),
)
def test_every_integer_reads_back_with_thousands_marked(value: int, mark: str, behind: str) -> None:
    assert read_number(f"{value:,}".replace(",", mark) + behind) == value


@given(
    st.integers(-(10**6), 10**6),
    st.integers(-50, 50),
    st.sampled_from(["{}e{}", "{}×10^{}", r"{}\times10^{{{}}}"]),
)
def test_every_power_of_ten_reads_back(value: int, exponent: int, form: str) -> None:
    assert read_number(form.format(value, exponent)) == value * Fraction(10) ** exponent


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_two_numbers_are_never_one(first: int, second: int) -> None:
    for joined in (
        f"{first}, {second}",
        f"{first} or {second}",
        f"{first}:{second}",
        f"{first} - {second}",
        f"{first} apples {second}",
    ):
        assert read_number(joined) is None


PIECES = [
    *"0123456789 .,'_-+/^*x×{}()[]=:%$°½²⁻!?~eEmkK",
    *(
        "\\frac",
        "\\times",
        "\\text{",
        "\\left(",
        "\\overline{3}",
        "10^",
        "million",
        "percent",
        "cm",
        "of",
        "CO2",
        "is",
        "±",
        "≈",
        "₂",
        "\u200b",
    ),
]


@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for uncertain in (False, True):
        quantity = read_quantity(text, uncertain=uncertain)
        assert quantity is None or isinstance(quantity.value, Fraction)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "1",
            "1,111",
            "1,",
            "1e",
            "1/",
            "1.",
            "-",
            "\\frac{1}{",
            "1e9",
            "$",
            "{,}",
            "\\text{",
            "a_",
            "_1",
            "(1)",
            "a b ",
            "x=",
            "½",
        ),
        *(" ", "\u0301", "a'", "9^9", "1 000", "\\", "is ", "**"),
    ],
)
@pytest.mark.parametrize("length", [MAX_ANSWER_CHARS, 1_000_000])
def test_hostile_text_is_done_with_at_once(piece: str, length: int) -> None:
    text = piece * (length // len(piece))
    assert_within(0.1, lambda: read_quantity(text, uncertain=True))
