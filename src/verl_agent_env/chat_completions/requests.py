"""One request to an endpoint, in bounded memory, and the pauses before the next one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from verl_agent_env.proxies import proxy_for

if TYPE_CHECKING:
    import aiohttp

_SHOWN_CHARS = 300
# Too slow, a conflict, too early, too many.
_PASSING = frozenset({408, 409, 425, 429})


class ResponseTooLongError(Exception):
    """The endpoint sends more than was to be read."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"answered with more than {max_bytes} bytes")


class Reply(NamedTuple):
    """Response of an endpoint."""

    status: int
    pause_s: float
    """Seconds that the endpoint asks to wait before the next request."""
    payload: bytes

    @property
    def problem(self) -> str:
        """Status and the beginning of the body."""
        return f"status {self.status}: {self.payload[:_SHOWN_CHARS].decode('utf-8', 'replace')}"


class Pauses:
    """Pauses between the attempts of one call: each is twice the one before, less up to half of it by chance."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._next_s = first_s
        self._longest_s = longest_s

    async def wait(self, asked_s: float = 0.0) -> None:
        """Wait for the next pause; as long as the endpoint asks for, up to the longest pause."""
        pause_s = max(self._next_s, min(asked_s, self._longest_s))
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
        self._next_s = min(2 * pause_s, self._longest_s)


def passes(status: int) -> bool:
    """Return true if a request with this status may succeed when it is made again."""
    return status >= 500 or status in _PASSING


async def post(
    session: aiohttp.ClientSession, base_url: str, key: str, body: Mapping[str, Any], max_bytes: int
) -> Reply:
    """Ask for one completion; redirects are not followed, for they would take the key elsewhere.

    Args:
        session: Connections and time limits.
        base_url: Base URL of the endpoint, such as ``https://api.openai.com/v1``.
        key: API key; empty if the endpoint needs none.
        body: The request.
        max_bytes: Limit of the response; the rest of a longer one is not read.

    Raises:
        aiohttp.ClientError, TimeoutError: There is no response.
        ResponseTooLongError: It is longer than ``max_bytes``.
    """
    url = base_url.rstrip("/") + "/chat/completions"
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    async with session.post(
        url, data=orjson.dumps(body), headers=headers, proxy=proxy_for(url) or None, allow_redirects=False
    ) as response:
        received = bytearray()
        async for piece in response.content.iter_any():
            received += piece
            if len(received) > max_bytes:
                raise ResponseTooLongError(max_bytes)
        return Reply(response.status, _seconds(response.headers.get("retry-after", "")), bytes(received))


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
