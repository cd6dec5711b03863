"""A client that sends again whatever may be sent again, and counts how often it had to."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
import orjson

from loadtests.chaos.ledger import Ledger

PAUSE_S = 0.05
"""Before a call is tried again."""
_TIMEOUT_S = 60.0


class Client:
    """HTTP calls to one address."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet.

        Args:
            url: Where the calls go.
        """
        self.url = url
        self.ledger = Ledger()
        """Counts calls and refusals."""
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, path: str, body: dict[str, Any] | None = None, *, is_patient: bool = True
    ) -> dict[str, Any]:
        """The answer, after as many tries as it takes; a problem document if it says that trying is in vain.

        Args:
            path: Of the call.
            body: As JSON; none asks with ``GET``.
            is_patient: Whether it is tried again; what is not is not counted either.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            )
        method = "GET" if body is None else "POST"
        payload = None if body is None else orjson.dumps(body)
        headers = {"content-type": "application/json"}
        if path.endswith("initialize"):
            headers["Idempotency-Key"] = random.randbytes(16).hex()
        while True:
            self.ledger.calls += is_patient
            try:
                async with self._session.request(
                    method, self.url + path, data=payload, headers=headers
                ) as answer:
                    document: dict[str, Any] = orjson.loads(await answer.read())
                    if answer.status == 200 or not is_patient or not document.get("retryable"):
                        return document
                    self.ledger.refused[document["code"]] += 1
            except (aiohttp.ClientError, TimeoutError) as broken:
                self.ledger.refused[type(broken).__name__] += 1
            except orjson.JSONDecodeError:
                self.ledger.refused["not JSON"] += 1
            await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
