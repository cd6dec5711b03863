"""A model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
import orjson

from verl_agent_env.types import Message

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_SHOWN_CHARS = 300


class ModelUnavailableError(Exception):
    """The endpoint did not answer, however often it was asked."""


class ModelRefusedError(Exception):
    """The endpoint refuses what it is asked: a wrong key, an unknown model, a request that it cannot read."""


class Answer(NamedTuple):
    """What a model said."""

    message: Message
    """Of role ``assistant``."""
    prompt_tokens: int
    completion_tokens: int
    """0 where the endpoint does not say."""


class ChatModel:
    """Asks a chat-completions endpoint, and again where that may help."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str = "",
        temperature: float | None = None,
        max_tries: int = 8,
        timeout_s: float = 300.0,
    ) -> None:
        """A model that is not connected yet: use it with ``async with``.

        Args:
            base_url: Of the endpoint, such as ``https://api.openai.com/v1``.
            model: Its name there.
            key: API key, if the endpoint asks for one.
            temperature: Of sampling; the endpoint's own if not given.
            max_tries: How often a question is asked at most.
            timeout_s: Seconds that an answer may take.
        """
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._options: dict[str, Any] = {"model": model}
        if temperature is not None:
            self._options["temperature"] = temperature
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._max_tries = max_tries
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, messages: list[Message], tools: list[dict[str, Any]]) -> Answer:
        """The message that follows.

        Raises:
            ModelUnavailableError: No answer, after all tries.
            ModelRefusedError: Asking again would not help.
        """
        body = orjson.dumps({**self._options, "messages": messages, **({"tools": tools} if tools else {})})
        pause_s, problem = _FIRST_PAUSE_S, ""
        for number in range(self._max_tries):
            if number:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                status, wanted_pause_s, payload = await self._post(body)
            except (aiohttp.ClientError, TimeoutError) as broken:
                problem = str(broken) or type(broken).__name__
                continue
            if status == 200:
                answer = _read(payload)
                if answer is not None:
                    return answer
                problem = "its answer is no chat completion"
            else:
                problem = f"status {status}: {payload[:_SHOWN_CHARS].decode('utf-8', 'replace')}"
                if status not in (408, 409, 429) and status < 500:
                    raise ModelRefusedError(f"The model at '{self._url}' refuses: {problem}")
                pause_s = max(pause_s, min(wanted_pause_s, _LONGEST_PAUSE_S))
        raise ModelUnavailableError(
            f"The model at '{self._url}' did not answer, asked {self._max_tries} times: {problem}"
        )

    async def _post(self, body: bytes) -> tuple[int, float, bytes]:
        """Status, seconds to wait before the next try, and body."""
        if self._session is None:
            raise RuntimeError("use the model with 'async with'")
        async with self._session.post(self._url, data=body, headers=self._headers) as answer:
            return answer.status, _seconds(answer.headers.get("retry-after", "")), await answer.read()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()


def _read(payload: bytes) -> Answer | None:
    try:
        document = orjson.loads(payload)
        said = document["choices"][0]["message"]
        usage = document.get("usage") or {}
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(said, dict) or not isinstance(usage, dict):
        return None
    message = {"role": "assistant", "content": said.get("content") or ""}
    if said.get("tool_calls"):
        message["tool_calls"] = said["tool_calls"]
    return Answer(message, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
