"""The order of the tests for several processes, each of which begins with an equal share of them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_shares(
    items: Sequence[T], shares: int, is_long: Callable[[T], bool], file_of: Callable[[T], Hashable]
) -> list[T]:
    """Order items so that each of the shares begins with long ones, those of a file together.

    The distributor of pytest-xdist (``worksteal``) cuts the tests into equal parts. A process that is done takes over the second
    half of what is left of another one's: if one process had all long tests, they would come last.

    Args:
        items: All of them.
        shares: How many parts they are cut into, whose lengths differ by one at most, the longer ones last.
        is_long: Tells whether an item takes long.
        file_of: Gives the file of an item; those of one file may share what they need.
    """
    files: defaultdict[Hashable, list[T]] = defaultdict(list)
    short: list[T] = []
    for item in items:
        (files[file_of(item)] if is_long(item) else short).append(item)
    parts: list[list[T]] = [[] for _ in range(shares)]
    for of_one_file in sorted(files.values(), key=len, reverse=True):
        min(parts, key=len).extend(of_one_file)
    left, rest = len(items), iter(short)
    ordered: list[T] = []
    for number, part in enumerate(parts):
        size = left // (shares - number)
        left -= size
        ordered += part
        ordered += itertools.islice(rest, max(0, size - len(part)))
    return [*ordered, *rest]
