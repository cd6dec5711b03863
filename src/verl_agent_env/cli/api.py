"""Calls of the command line to a running server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click
import orjson
from pydantic import ValidationError

from verl_agent_env.client import ServerUnreachableError
from verl_agent_env.client.errors import NoServerError
from verl_agent_env.client.transport import MAX_ANSWER_BYTES, Transport, decode_object
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.wire.responses import ResponseBody

_TIMEOUT_S = 30.0


def call(
    url: str, path: str, response: type[ResponseBody], body: dict[str, Any] | None = None, *, token: str = ""
) -> dict[str, Any]:
    """Return the response of the server at ``url``, to a ``POST`` if there is a body, else to a ``GET``.

    Args:
        url: URL of the server.
        path: Path of the call.
        response: What the response has to be; further fields, of a later version, are kept.
        body: Body of the request.
        token: Bearer token; empty for none.

    Raises:
        click.ClickException: The server does not respond, or responds with an error or another program's answer; the
            message gives the reason.
    """
    try:
        transport = Transport(url, token or None, _TIMEOUT_S, 1, MAX_ANSWER_BYTES)
    except ValueError as unfit:
        raise click.ClickException(f"{unfit}.") from None
    return asyncio.run(_call(transport, path, response, body))


async def _call(
    transport: Transport, path: str, response: type[ResponseBody], body: dict[str, Any] | None
) -> dict[str, Any]:
    method, payload = ("GET", b"") if body is None else ("POST", orjson.dumps(body))
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        answer = await transport.send(method, path, payload, deadline=deadline)
        found = decode_object(transport.url, answer)
        response.model_validate(found, strict=True)
        return found
    except ValidationError:
        other = NoServerError(transport.url, "its answer has another form")
        raise click.ClickException(other.detail) from None
    except ServerUnreachableError as away:
        raise click.ClickException(away.detail) from None
    except VerlAgentEnvError as refusal:
        raise click.ClickException(f"{transport.url} refuses: {refusal.detail}") from None
    finally:
        await transport.close()
