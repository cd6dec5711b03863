"""Pages of what an MCP server lists: tools, resources."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

_MAX_PAGES = 100


class ListPage(Protocol):
    """A part of a list."""

    next_cursor: str | None
    """Where the next page begins; empty or ``None`` at the end."""


P = TypeVar("P", bound=ListPage)


async def pages_of(read: Callable[..., Awaitable[P]]) -> AsyncIterator[P]:
    """Read one page after another, each once and a hundred at most: a server may never come to an end.

    Args:
        read: Method of the SDK's session that reads a page, such as ``list_tools``.
    """
    from mcp.types import PaginatedRequestParams

    cursor: Any = None
    read_before: set[Any] = set()
    for _ in range(_MAX_PAGES):
        page = await read(params=PaginatedRequestParams(cursor=cursor))
        yield page
        read_before.add(cursor)
        cursor = page.next_cursor
        if not cursor or cursor in read_before:
            return
