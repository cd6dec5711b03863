"""Questions to a model about texts that others wrote: as data that give no orders, and answers that they cannot write.

A text of a model that learns to be paid reaches the endpoint as a JSON string without any character of which chat templates
make tokens, and the answer must hold a random ticket that no such text can know.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from verl_agent_env.envs.model_endpoints.client import UnusableCompletionError, complete
from verl_agent_env.envs.model_endpoints.configuration import endpoint_named
from verl_agent_env.messages.content import content_text, well_formed
from verl_agent_env.types import Message

T = TypeVar("T")

_FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)
# Characters of which chat templates make the tokens that begin and end messages.
_IN_TOKENS = {ord(character): f"\\u{ord(character):04x}" for character in "<>[]|｜"}


async def ask(
    endpoint: str,
    task: str,
    fields: Mapping[str, str],
    answer: Mapping[str, Any],
    read: Callable[[dict[str, Any]], T],
) -> T:
    """Ask a model about texts of others.

    Args:
        endpoint: Name of the endpoint.
        task: The instructions; they say that an answer has the ``ticket`` of the message.
        fields: The question, each field as JSON.
        answer: JSON Schema of each field of the answer, without the ticket.
        read: Reads the fields; raises ``UnusableCompletionError`` for another completion.

    Raises:
        EndpointUnavailableError, EndpointBudgetSpentError: There is no answer.
    """
    ticket = secrets.token_hex(8)
    written = {"ticket": quoted(ticket), **fields}
    question = "{" + ",\n".join(f"{quoted(name)}: {value}" for name, value in written.items()) + "}"
    messages = [{"role": "system", "content": task}, {"role": "user", "content": question}]
    schema = object_schema({"ticket": {"const": ticket}, **answer})
    return await complete(
        endpoint_named(endpoint), messages, lambda text: read(_fields_of(text, ticket, list(answer))), schema
    )


def quoted(text: str) -> str:
    """Write ``text`` as a JSON string that holds no character of a chat template's tokens."""
    return json.dumps(well_formed(text)).translate(_IN_TOKENS)


def quoted_history(history: Iterable[Message], max_chars: int) -> str:
    """Write the last messages of a conversation, as many as fit, as a JSON list."""
    shown: list[str] = []
    left = max_chars
    for message in reversed(list(history)):
        text = content_text(message.get("content"))
        if len(text) > left:
            break
        left -= len(text)
        shown.append(f'{{"role": {quoted(str(message.get("role", "")))}, "content": {quoted(text)}}}')
    return "[" + ", ".join(reversed(shown)) + "]"


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of an object of exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _fields_of(text: str, ticket: str, names: Sequence[str]) -> dict[str, Any]:
    """Read an answer: one JSON object with the ticket and fields of exactly these names, in a fence or not.

    Raises:
        UnusableCompletionError: It is anything else.
    """
    fenced = _FENCED.fullmatch(text.strip())
    try:
        found = orjson.loads(fenced[1] if fenced else text)
    except orjson.JSONDecodeError:
        raise UnusableCompletionError("it is not one JSON object") from None
    if not isinstance(found, dict) or found.keys() != {"ticket", *names}:
        raise UnusableCompletionError(f"it has other fields than ticket and {' and '.join(names)}")
    if found.pop("ticket") != ticket:
        raise UnusableCompletionError("it has another ticket")
    return found
