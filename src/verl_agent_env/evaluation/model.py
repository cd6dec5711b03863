"""A model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

from verl_agent_env.chat_completions import (
    Completion,
    Pauses,
    Reply,
    ResponseTooLongError,
    passes,
    post,
    read_answer,
    refusal_of,
)
from verl_agent_env.types import Message

AnswerFormat = Literal["tools", "text", "json"]
"""How the model is asked to act.

- ``tools``: the environment's tools are offered, and the model calls them.
- ``text``: no tools are offered; the environment reads the text.
- ``json``: no tools are offered; ``response_format`` holds a JSON Schema of one call of one tool.
"""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_SHOWN_CHARS = 300
_MAX_RESPONSE_BYTES = 1 << 25
# A wrong key, a wrong path, an unknown model: no conversation would fare better.
_REFUSES_ALL = frozenset({401, 403, 404, 405})
# So many conversations are refused before the first answer until the endpoint is taken to refuse them all.
_REFUSALS_BEFORE_ANSWER = 4


class ModelUnavailableError(Exception):
    """The endpoint did not respond after all retries."""


class ModelRefusedError(Exception):
    """The endpoint refuses every request: wrong key, unknown model, unknown option."""


class ConversationRefusedError(Exception):
    """The endpoint or the model refuses this conversation; other conversations may continue."""

    def __init__(self, text: str, *, out_of_context: bool = False) -> None:
        super().__init__(text)
        self.out_of_context = out_of_context
        """True if the conversation is too long for the model."""


class ChatModel:
    """Client of a chat-completions endpoint, with retries."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        answer_format: AnswerFormat = "tools",
        max_tries: int = 8,
        timeout_s: float = 300.0,
    ) -> None:
        """Describe a model; use it with ``async with``.

        Args:
            base_url: Base URL of the endpoint, such as ``https://api.openai.com/v1``.
            model: Name of the model at the endpoint.
            key: API key, if the endpoint needs one.
            temperature: Sampling temperature; by default the endpoint's own.
            max_tokens: Limit of the tokens of one completion; by default the endpoint's own.
            answer_format: How the model is asked to act.
            max_tries: Limit of the attempts of one request.
            timeout_s: Time limit of one attempt.
        """
        self._base_url = base_url.rstrip("/")
        self._options: dict[str, Any] = {"model": model}
        if temperature is not None:
            self._options["temperature"] = temperature
        if max_tokens is not None:
            self._options["max_tokens"] = max_tokens
        self._answer_format = answer_format
        self._key = key
        self._max_tries = max_tries
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._has_answered = False
        self._refusals = 0

    async def ask(self, messages: Sequence[Message], tools: list[dict[str, Any]]) -> Completion:
        """Return the model's next message.

        Raises:
            ModelUnavailableError: No attempt got a response.
            ConversationRefusedError: This conversation is refused.
            ModelRefusedError: The endpoint refuses every request.
        """
        question = {"messages": messages, **self._ways_to_act(tools)}
        pauses, asked_s, problem = Pauses(_FIRST_PAUSE_S, _LONGEST_PAUSE_S), 0.0, ""
        for number in range(self._max_tries):
            if number:
                await pauses.wait(asked_s)
            asked_s = 0.0
            try:
                reply = await self._post(question)
                if reply.status == 400 and self._rename_max_tokens(reply.payload):
                    reply = await self._post(question)
            except (aiohttp.ClientError, TimeoutError, ResponseTooLongError) as broken:
                problem = str(broken) or type(broken).__name__
                continue
            if reply.status == 200:
                answer = read_answer(reply.payload)
                if answer is not None:
                    self._has_answered = True
                    return _accepted(answer)
                problem = "its answer is no chat completion"
            else:
                problem = reply.problem
                self._raise_refusal(reply)
                asked_s = reply.pause_s
        raise ModelUnavailableError(
            f"The model at '{self._base_url}' did not answer, asked {self._max_tries} times: {problem}"
        )

    def _ways_to_act(self, tools: list[dict[str, Any]]) -> dict[str, Any]:
        if not tools or self._answer_format == "text":
            return {}
        if self._answer_format == "json":
            schema = {"name": "action", "schema": call_schema(tools)}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        return {"tools": tools}

    def _raise_refusal(self, reply: Reply) -> None:
        """Raise for a refusal that a retry would not change.

        An unexplained refusal before the first completion may be due to an option of every request, so a few of them count
        as a refusal of every request.
        """
        reason = refusal_of(reply.payload)
        if passes(reply.status) and (reply.status < 500 or reason != "context"):
            return
        if reason is None:
            self._refusals += not self._has_answered
            if reply.status in _REFUSES_ALL or self._refusals >= _REFUSALS_BEFORE_ANSWER:
                raise ModelRefusedError(f"The model at '{self._base_url}' refuses: {reply.problem}")
        raise ConversationRefusedError(reply.problem, out_of_context=reason == "context")

    def _rename_max_tokens(self, payload: bytes) -> bool:
        """Switch to the newer name of the option, which some models require; return true if it was changed."""
        if b"max_completion_tokens" not in payload or "max_tokens" not in self._options:
            return False
        self._options["max_completion_tokens"] = self._options.pop("max_tokens")
        return True

    async def _post(self, question: Mapping[str, Any]) -> Reply:
        if self._session is None:
            raise RuntimeError("use the model with 'async with'")
        body = {**self._options, **question}
        return await post(self._session, self._base_url, self._key, body, _MAX_RESPONSE_BYTES)

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


def call_schema(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON Schema of one call of one of these tools (OpenAI's form): ``{"name", "arguments"}``."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"]["parameters"],
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _accepted(answer: Completion) -> Completion:
    """Return the completion, unless it is a refusal.

    Raises:
        ConversationRefusedError: A filter or the model itself refused.
    """
    if answer.finish_reason == "content_filter":
        raise ConversationRefusedError("a content filter withheld the answer")
    if answer.refusal:
        raise ConversationRefusedError(f"the model refused: {answer.refusal[:_SHOWN_CHARS]}")
    return answer
