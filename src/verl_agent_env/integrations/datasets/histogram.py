"""A histogram of difficulties as SVG, so that equal data gives equal bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_MAX_BINS = 40
_WIDTH, _ROW_HEIGHT = 720, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 40
_COLOURS = {"train": "#4c78a8", "test": "#f58518"}


class Series(NamedTuple):
    """The difficulties of one component."""

    title: str
    train: Sequence[float]
    test: Sequence[float]


def bins_of(values: Sequence[float]) -> tuple[float, float, int]:
    """Choose lower edge, width and number of bins; a few whole numbers get a bin each."""
    lowest, highest = min(values), max(values)
    if all(value == int(value) for value in values):
        width = float(max(1, math.ceil((highest - lowest + 1) / _MAX_BINS)))
        return lowest - 0.5, width, math.ceil((highest - lowest + 1) / width)
    width = (highest - lowest) / _MAX_BINS or 1.0
    return lowest, width, _MAX_BINS


def counts_of(values: Sequence[float], lower: float, width: float, bins: int) -> list[int]:
    """Count the values in each bin."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - lower) / width))] += 1
    return counts


def histogram_svg(series: Sequence[Series]) -> str:
    """Draw one row for each component with difficulties, with the shares of train and test."""
    shown = [one for one in series if one.train or one.test]
    height = _ROW_HEIGHT * max(1, len(shown))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif"'
        ' font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    if not shown:
        parts.append('<text x="20" y="30">No difficulty is known of these environments.</text>')
    for row, one in enumerate(shown):
        parts.append(f'<g transform="translate(0 {row * _ROW_HEIGHT})">{_panel(one)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(one: Series) -> str:
    lower, width, bins = bins_of([*one.train, *one.test])
    splits = {"train": one.train, "test": one.test}
    shares = {
        name: [count / len(values) for count in counts_of(values, lower, width, bins)]
        for name, values in splits.items()
        if values
    }
    highest = max(max(column) for column in shares.values())
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _ROW_HEIGHT - _TOP - _BOTTOM
    step = plot_width / bins
    parts = [f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(one.title)}</text>']
    for number, (name, column) in enumerate(shares.items()):
        bar = step * 0.9 / len(shares)
        for position, share in enumerate(column):
            tall = plot_height * share / highest
            x = _LEFT + position * step + number * bar
            parts.append(
                f'<rect x="{x:.1f}" y="{_TOP + plot_height - tall:.1f}" width="{bar:.1f}" height="{tall:.1f}"'
                f' fill="{_COLOURS[name]}"/>'
            )
        values = splits[name]
        mean = sum(values) / len(values)
        legend = f"{name}: {len(values):,} rows, mean {mean:.2f}"
        parts.append(
            f'<text x="{_LEFT + 200 * number}" y="32" fill="{_COLOURS[name]}">{escape(legend)}</text>'
        )
    base = _TOP + plot_height
    parts.append(
        f'<line x1="{_LEFT}" y1="{base}" x2="{_WIDTH - _RIGHT}" y2="{base}" stroke="black"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{highest:.0%}</text>'
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">0%</text>'
    )
    for position in range(0, bins, max(1, bins // 10)):
        middle = lower + (position + 0.5) * width
        parts.append(
            f'<text x="{_LEFT + (position + 0.45) * step:.1f}" y="{base + 14}" text-anchor="middle">{middle:g}</text>'
        )
    parts.append(
        f'<text x="{_LEFT + plot_width / 2:.0f}" y="{base + 30}" text-anchor="middle">difficulty</text>'
    )
    return "".join(parts)
