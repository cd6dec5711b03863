"""The yardstick: a bare ASGI application that parses a step's body and writes a step's answer with orjson, no more."""

from __future__ import annotations

from typing import Any

import orjson

ANSWER = {
    "observation": [{"role": "tool", "tool_call_id": "call_1", "content": "F\tP" + "\tF" * 6 + ("\n" + "F\tF\tF\tF\tF\tF\tF\tF") * 7}],
    "reward": 0.0,
    "done": False,
    "terminated": False,
    "truncated": False,
    "info": {"num_steps": 1, "action_is_valid": True, "action_is_effective": True, "success": False},
}  # fmt: skip


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Parse the body, write the answer."""
    if scope["type"] != "http":
        return
    message = await receive()
    if message["body"]:
        orjson.loads(message["body"])
    payload = orjson.dumps(ANSWER)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
