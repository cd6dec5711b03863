"""Client of a model endpoint: one completion in bounded time, memory and cost, or a typed error that changes nothing."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from verl_agent_env.chat_completions import Pauses, ResponseTooLongError, passes, post, read_answer
from verl_agent_env.envs.model_endpoints.configuration import ModelEndpoint
from verl_agent_env.errors import EndpointBudgetSpentError, EndpointUnavailableError
from verl_agent_env.messages.content import content_text, well_formed
from verl_agent_env.turns import Caller, Turns
from verl_agent_env.types import Message

MAX_COMPLETION_BYTES = 1 << 18
"""Limit of the bytes of a response; the rest of a longer one is not read."""
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


class UnusableCompletionError(Exception):
    """The completion has not the form that was asked for; the message never repeats it."""


class _AttemptFailedError(Exception):
    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


async def complete(
    endpoint: ModelEndpoint,
    messages: Sequence[Message],
    read: Callable[[str], T],
    schema: Mapping[str, Any] | None = None,
) -> T:
    """Ask a model for one completion, and return what ``read`` makes of its text.

    Args:
        endpoint: The endpoint.
        messages: The conversation.
        read: Reads the text; called again for another completion if it raises ``UnusableCompletionError``.
        schema: JSON Schema of the text, if it has to be JSON.

    Raises:
        EndpointUnavailableError: No attempt within the deadline gave a usable completion.
        EndpointBudgetSpentError: The budget does not allow another request.
    """
    deadline = time.monotonic() + endpoint.deadline_s
    body = {**_options(endpoint, schema), "messages": messages}
    pauses, reason = Pauses(_FIRST_PAUSE_S, _LONGEST_PAUSE_S), "gave no answer"
    for number in range(endpoint.max_attempts):
        if number:
            await pauses.wait()
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            break
        try:
            return read(await _attempt(endpoint, body, remaining_s))
        except UnusableCompletionError as unusable:
            reason = f"gave an unusable answer ({unusable})"
        except _AttemptFailedError as failed:
            reason = str(failed)
            if failed.is_final:
                break
    raise EndpointUnavailableError(reason, endpoint.name)


async def _attempt(endpoint: ModelEndpoint, body: Mapping[str, Any], remaining_s: float) -> str:
    """Send one request, and return the text of its completion."""
    timeout_s = min(endpoint.timeout_s, remaining_s)
    try:
        async with asyncio.timeout(remaining_s), _place(endpoint):
            _spend(endpoint)
            async with asyncio.timeout(timeout_s):
                return _text_of(await _post(endpoint, body))
    except TimeoutError:
        raise _AttemptFailedError(f"did not answer within {timeout_s:.3g} s") from None
    except ResponseTooLongError as endless:
        raise _AttemptFailedError(str(endless)) from None


async def _post(endpoint: ModelEndpoint, body: Mapping[str, Any]) -> bytes:
    """Return the body of a response with status 200."""
    # Here: a server and an environment that ask no model start without it.
    import aiohttp

    # A session for each request: nothing is left open, whichever event loop the environment lives on.
    connector = aiohttp.TCPConnector(force_close=True)
    try:
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            key = endpoint.api_key.get_secret_value()
            reply = await post(session, endpoint.base_url, key, body, MAX_COMPLETION_BYTES)
    except aiohttp.ClientError as broken:
        raise _AttemptFailedError(f"cannot be asked ({type(broken).__name__})") from None
    if reply.status != 200:
        raise _AttemptFailedError(f"answered with status {reply.status}", is_final=not passes(reply.status))
    return reply.payload


def _options(endpoint: ModelEndpoint, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "model": endpoint.model,
        "max_tokens": endpoint.max_output_tokens,
        "temperature": 0,
    }
    if schema is not None and endpoint.json_schema:
        described = {"name": "answer", "schema": schema, "strict": True}
        options["response_format"] = {"type": "json_schema", "json_schema": described}
    return options


def _text_of(received: bytes) -> str:
    completion = read_answer(received)
    if completion is None:
        raise _AttemptFailedError("answered with something else than a chat completion")
    if completion.finish_reason == "content_filter":
        raise _AttemptFailedError("withheld its answer: a content filter")
    text = well_formed(content_text(completion.message["content"]))
    if not text:
        raise _AttemptFailedError("answered without a text")
    return text


# --- limits of one process --------------------------------------------------------------------------------------

_spent: Counter[str] = Counter()
_spent_lock = threading.Lock()
_places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Turns]] = weakref.WeakKeyDictionary()


def requests_spent(name: str) -> int:
    """Return the number of requests of this process to the endpoint of this name."""
    return _spent[name]


def _spend(endpoint: ModelEndpoint) -> None:
    """Take one request from the budget.

    Raises:
        EndpointBudgetSpentError: Nothing is left.
    """
    with _spent_lock:
        if endpoint.max_requests is not None and _spent[endpoint.name] >= endpoint.max_requests:
            raise EndpointBudgetSpentError("budget spent", endpoint.name, endpoint.max_requests)
        _spent[endpoint.name] += 1


def _place(endpoint: ModelEndpoint) -> AbstractAsyncContextManager[None]:
    """Wait for one of the concurrent requests of this event loop, which tokens and runs have in turn."""
    turns = _places.setdefault(asyncio.get_running_loop(), {})
    resource = f"requests to {endpoint.name}"
    return turns.setdefault(endpoint.name, Turns(endpoint.max_concurrent, resource)).place(
        Caller(patience_s=None)
    )
