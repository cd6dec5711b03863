"""The yardstick of WebSockets: a bare ASGI application that parses each message and writes a step's answer with orjson."""

from __future__ import annotations

from typing import Any

import orjson

from loadtests.echo_app import ANSWER


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Parse each message, write the answer."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        orjson.loads(message["text"])
        answer = orjson.dumps({"type": "observation", "data": ANSWER})
        await send({"type": "websocket.send", "text": answer.decode()})
