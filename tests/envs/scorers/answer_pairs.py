"""Pairs of a reference and an answer as models write them, by hand, and whether the answer is right.

The kinds are those of public data sets of answers: grade-school sums, competition mathematics, physics with units.
"""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """What was expected, what was answered."""

    reference: str
    answer: str
    is_right: bool


def _pairs(is_right: bool, table: dict[str, tuple[str, ...]]) -> tuple[Pair, ...]:
    return tuple(
        Pair(reference, answer, is_right) for reference, answers in table.items() for answer in answers
    )


NUMBERS = (
    *_pairs(
        True,
        {
            "72": (
                "72",
                "72 clips",
                r"\boxed{72}",
                "$72",
                "72.0",
                "The answer is 72.",
                "x = 72",
                "**72**",
                "72 (in total)",
            ),
            "10": ("$10", "10 dollars", r"\$10", "10.00", r"10\text{ dollars}", "Answer: 10"),
            "18000": (
                "18,000",
                "18 000",
                "18k",
                "1.8e4",
                r"1.8\times 10^4",
                "$18,000",
                r"18{,}000",
                "18 thousand",
            ),
            "0.5": ("1/2", r"\frac12", "50%", r"\frac{1}{2}", "0.50", ".5", r"\dfrac{1}{2}", "½", r"50\%"),
            "-3/4": (r"-\frac{3}{4}", "-0.75", r"\frac{-3}{4}", "−3/4", "-75%"),
            "1.5": ("1 1/2", r"1\frac{1}{2}", "3/2", "1½", r"\frac{3}{2}"),
            "1024": ("2^{10}", "1024", "1,024", "2^10", "4^5"),
            "90": (r"90^\circ", "90 degrees", "90°", r"90^{\circ}"),
            "9.8": (r"9.8\text{ m/s}^2", "9.8 m/s²", r"9.8\,\mathrm{m/s^2}", "9.8 m s^{-2}"),
            "3e8": (r"3\times10^8", "3·10⁸ m/s", "300000000", "3 x 10^8", r"3.0 \times 10^{8}\ \mathrm{m/s}"),
            "1234567.89": ("1,234,567.89", "1 234 567,89", "1.234.567,89", "12,34,567.89"),
        },
    ),
    *_pairs(
        False,
        {
            "72": ("27", "7.2", "72 or 73", "71, 72", "not 72", "72 + 1", "-72", "72%", "about 70"),
            "3": (
                r"3\sqrt{2}",
                "3x",
                "x^3",
                "3:4",
                "3/4",
                "2 to 3",
                "3!",
                "13",
                r"\sqrt{3}",
                r"3\pi",
                "2, 3",
            ),
            "30": ("10:30", "30!", r"30\sqrt{3}", "3 × 10", "60/30", "5 h 30 min"),
            "0.5": ("5", "2", "1:2", "50", r"\frac{2}{1}", r"\frac{1}{2}x"),
            "5000": (r"5\times10^4", "5", "5 × 10", "500", "5e4"),
            "12": ("3x = 12", "12 = 3x", "1/12", "12^2"),
        },
    ),
)
"""What both ``numeric`` and ``math`` have to tell."""

EXPRESSIONS = (
    *_pairs(
        True,
        {
            r"3\sqrt{2}": (r"\sqrt{18}", r"3\sqrt{2}", "3√2", r"\sqrt{9}\sqrt{2}", r"\sqrt{2}\cdot 3"),
            r"\frac{\pi}{2}": (r"\pi/2", "π/2", r"\frac12\pi", r"0.5\pi"),
            "(x+1)^2": ("x^2+2x+1", r"x^2 + 2x + 1", r"(1+x)^2", "x²+2x+1", "(x+1)(x+1)"),
            r"\frac{x+1}{2}": ("(x+1)/2", r"\frac{1}{2}x+\frac{1}{2}", "0.5x+0.5"),
            r"\{1,2\}": (r"\{2,1\}", r"\{1, 2\}", "1, 2", "2,1"),
            "[0,1)": ("[0,1)", "[0, 1)", r"\left[0,1\right)"),
            r"(-\infty,2)": (r"(-\infty, 2)", "(-∞, 2)", r"\left(-\infty,2\right)"),
            "(3,4)": ("(3, 4)", r"\left(3,4\right)", r"(3,\,4)"),
            "y=2x+3": ("y = 3 + 2x", "y=2x+3", "2x+3"),
            r"\frac{\sqrt{3}}{3}": (r"\frac{1}{\sqrt{3}}", "√3/3", r"\sqrt{\frac{1}{3}}"),
            r"\begin{pmatrix}1\\2\end{pmatrix}": (
                r"\begin{pmatrix}1\\2\end{pmatrix}",
                r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}",
            ),
            "2i+1": ("1+2i", "1 + 2i"),
            "x>2": ("x > 2", "2 < x"),
        },
    ),
    *_pairs(
        False,
        {
            r"3\sqrt{2}": ("3", r"2\sqrt{3}", "2", r"\sqrt{12}", r"3\sqrt{3}"),
            r"\frac{\pi}{2}": (r"\pi", "2", r"\frac{2}{\pi}", "1/2"),
            "(x+1)^2": ("x^2+1", "(x-1)^2", "x^2+2x", "(y+1)^2"),
            r"\{1,2\}": (r"\{1,3\}", "1", "12", "1.2"),
            "[0,1)": ("(0,1]", "[0,1]", "(0,1)", "0"),
            "(3,4)": ("(4,3)", "3.4", "3", "[3,4]"),
            "y=2x+3": ("y=3x+2", "2x", "3"),
            r"\begin{pmatrix}1\\2\end{pmatrix}": (r"\begin{pmatrix}2\\1\end{pmatrix}", "1", "12"),
            "2i+1": ("1-2i", "3", "2"),
            "x>2": ("x<2", "2", "x>3"),
        },
    ),
)
"""What ``math`` alone has to tell."""
