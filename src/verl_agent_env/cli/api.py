"""Calls of the command line to a running server."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import click
import orjson

from verl_agent_env.proxies import proxy_for, shown

_TIMEOUT_S = 30.0


def call(url: str, path: str, body: dict[str, Any] | None = None, *, token: str = "") -> dict[str, Any]:
    """Return the response of the server at ``url``, to a ``POST`` if there is a body, else to a ``GET``.

    Raises:
        click.ClickException: The server does not respond, or responds with an error; the message gives the reason.
    """
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"'{url}' is no URL of a server: write http://host:port.")
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    payload = None if body is None else orjson.dumps(body)
    request = urllib.request.Request(url.rstrip("/") + path, payload, headers)  # noqa: S310
    proxy = proxy_for(url)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {})
    )
    through = f" through the proxy {shown(proxy)}" if proxy else ""
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            found = orjson.loads(answer.read())
    except urllib.error.HTTPError as refused:
        raise click.ClickException(f"{url} refuses{through}: {_detail_of(refused)}") from None
    except (OSError, ValueError) as away:
        raise click.ClickException(
            f"{url} does not answer{through}: {getattr(away, 'reason', away)}."
        ) from None
    if not isinstance(found, dict):
        raise click.ClickException(f"A program other than this server answers at {url}.")
    return found


def _detail_of(refused: urllib.error.HTTPError) -> str:
    try:
        return str(orjson.loads(refused.read())["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"status {refused.code}."
