"""Reduction of a model's messages, in any form of a serving stack, to calls, text and thought.

Accepts messages of OpenAI's chat completions, also with ``function_call``, of Anthropic and Gemini, items of OpenAI's
Responses, whole responses of these APIs, lists of them, and objects of SDKs with a ``model_dump``. Of several choices the
first with a tool call counts, else the first with content. Never raises.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, NamedTuple

from verl_agent_env.messages.content import content_text, well_formed
from verl_agent_env.messages.reading import MAX_CALLS, WrittenCall, calls_in, is_call

_MAX_LAYERS = 6
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
_SPEAKERS = ("assistant", "model")
_NO_MESSAGE = "The action is neither a message nor text."
_TOO_MANY = f"The action holds more than {MAX_CALLS} messages, parts or tool calls."


class ModelMessage(NamedTuple):
    """One message of the model."""

    form: str
    """Name of its form."""
    text: str = ""
    calls: list[WrittenCall] | None = None
    """Structured calls; ``None`` if the text alone is the action."""
    thought: str = ""
    fault: str | None = None


def read_messages(action: object) -> list[ModelMessage]:
    """Return the model's messages in ``action``, in order; those of other roles are skipped."""
    if type(action) is not dict and type(action) is not str:
        action = _listed(plain(action))
    if isinstance(action, str):
        return [ModelMessage("text", well_formed(action))]
    if isinstance(action, dict):
        return _read_object(action, _MAX_LAYERS)
    if isinstance(action, list):
        return _read_list(action, _MAX_LAYERS)
    return [ModelMessage("none", fault=_NO_MESSAGE)]


def plain(value: object) -> object:
    """Return ``value``, or the dictionary of an SDK's object."""
    dump: Callable[[], object] | None = getattr(value, "model_dump", None)
    if dump is None or isinstance(value, type):
        return value
    try:
        return dump()
    except Exception:  # noqa: BLE001 - whatever somebody else's object raises, it cannot be read
        return None


def _listed(value: object) -> object:
    """Return tuples and values of NumPy as lists, numbers and texts, and anything else as it is."""
    if isinstance(value, tuple):
        return list(value)
    tolist: Callable[[], object] | None = getattr(value, "tolist", None)
    try:
        return value if tolist is None else tolist()
    except Exception:  # noqa: BLE001 - whatever somebody else's object raises, it cannot be read
        return None


def plain_value(value: object) -> object:
    """Convert an SDK's object to JSON values, for ``orjson.dumps(…, default=plain_value)``.

    Raises:
        TypeError: The value is no such object.
    """
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    told = plain(value)
    if told is value:
        raise TypeError(f"an action cannot hold a {type(value).__name__}")
    return told


def _read_list(items: list[Any], layers: int) -> list[ModelMessage]:
    if len(items) > MAX_CALLS:
        return [ModelMessage("none", fault=_TOO_MANY)]
    items = [plain(item) for item in items]
    if items and all(map(_is_choice, items)):
        return _read_choices(items, layers)
    found: list[ModelMessage] = []
    for item in items:
        if isinstance(item, str):
            found.append(ModelMessage("text", well_formed(item)))
        elif isinstance(item, dict):
            if item.get("role", "assistant") in _SPEAKERS:
                found += _read_object(item, layers)
        elif not isinstance(item, list):
            found.append(ModelMessage("none", fault=_NO_MESSAGE))
    return found


def _read_choices(choices: list[Any], layers: int) -> list[ModelMessage]:
    """Return the messages of one of several choices: the first with a tool call, else the first with content."""
    answers = [_read_object(choice, layers) for choice in map(plain, choices) if isinstance(choice, dict)]
    if not answers:
        return [ModelMessage("none", fault=_NO_MESSAGE)]
    acting = (answer for answer in answers if any(found.calls for found in answer))
    speaking = (answer for answer in answers if any(found.text for found in answer))
    return next(acting, None) or next(speaking, answers[0])


def _read_object(message: dict[str, Any], layers: int) -> list[ModelMessage]:
    """Return the messages in a message, in a part of one, or in a whole API response."""
    if not layers or "role" in message:
        return [_read_message(message)]
    for key in ("choices", "candidates", "output", "message", "content"):
        inner = plain(message.get(key))
        if isinstance(inner, list) and inner and key in ("choices", "candidates"):
            return _read_choices(inner, layers - 1)
        if isinstance(inner, dict) and (key != "content" or "parts" in inner):
            return _read_object(inner, layers - 1)
        if isinstance(inner, list) and inner and key == "output":
            return _read_list(inner, layers - 1)
    if "content" in message or "tool_calls" in message:
        return [_read_message(message)]
    if is_call(message, {}):
        return [ModelMessage(_FORM_OF_TYPE.get(_type_of(message), "call"), calls=_calls_in([message]))]
    if isinstance(message.get("text"), str) or _type_of(message):
        return [_read_parts([message])]
    return [_read_message(message)]


def _read_message(message: dict[str, Any]) -> ModelMessage:
    content = message.get("parts") if isinstance(message.get("parts"), list) else message.get("content")
    parts = _read_parts(content) if isinstance(content, list) else None
    text = well_formed(content_text(content)) if parts is None else parts.text
    thought = _thought_of(message) or (parts.thought if parts is not None else "")
    for form in ("tool_calls", "function_call"):
        calls = plain(message.get(form))
        if not calls:
            continue
        if form == "function_call":
            calls = [calls]
        if not isinstance(calls, list):
            return ModelMessage(form, text, [], thought, "'tool_calls' is not a list.")
        if len(calls) > MAX_CALLS:
            return ModelMessage(form, text, [], thought, _TOO_MANY)
        return ModelMessage(form, text, _calls_in(calls), thought)
    if parts is not None and (parts.calls or parts.fault):
        return parts._replace(thought=thought)
    return ModelMessage("text", text, None, thought)


def _read_parts(content: list[Any]) -> ModelMessage:
    """Read a message of parts: texts, thoughts and calls."""
    form = "text"
    if len(content) > MAX_CALLS:
        return ModelMessage(form, fault=_TOO_MANY)
    texts: list[Any] = []
    thoughts: list[str] = []
    calls: list[WrittenCall] = []
    for part in map(plain, content):
        if not isinstance(part, dict):
            texts.append(part)
            continue
        kind = _type_of(part)
        inner = next((call for key in _PART_CALLS if isinstance(call := plain(part.get(key)), dict)), None)
        if kind in _FORM_OF_TYPE:
            form = _FORM_OF_TYPE[kind]
            calls += _calls_in([part])
        elif inner is not None:
            form = "gemini"
            calls += _calls_in([inner])
        elif kind in ("thinking", "reasoning") or part.get("thought") is True:
            thoughts.append(_text_in(part))
        else:
            texts.append(part)
    text = well_formed(content_text(texts))
    return ModelMessage(form, text, calls or None, "\n".join(thought for thought in thoughts if thought))


_PART_CALLS = ("functionCall", "function_call", "toolUse")
_FORM_OF_TYPE = {"tool_use": "anthropic", "function_call": "responses", "custom_tool_call": "responses"}


def _calls_in(calls: list[Any]) -> list[WrittenCall]:
    """Return the calls of a message; each item is a call, whatever it holds."""
    written = []
    for item in calls:
        usual = _usual_call(item)
        if usual is not None:
            written.append(usual)
            continue
        item = plain(item)
        if isinstance(item, dict) and hasattr(item.get("function"), "model_dump"):
            item = {**item, "function": plain(item["function"])}
        found = list(calls_in(item))
        written.append(found[0] if len(found) == 1 else WrittenCall(None, None))
    return written


def _usual_call(item: object) -> WrittenCall | None:
    """Read a call of OpenAI's form; ``None`` for anything else."""
    if type(item) is not dict or "name" in item:
        return None
    function = item.get("function")
    if type(function) is not dict:
        return None
    name = function.get("name")
    if type(name) is not str or "." in name or "arguments" not in function:
        return None
    return WrittenCall(name, function["arguments"], item.get("id"))


def _type_of(part: dict[str, Any]) -> str:
    kind = part.get("type")
    return kind if isinstance(kind, str) else ""


def _is_choice(item: object) -> bool:
    return isinstance(item, dict) and "role" not in item and "finish_reason" in item


def _thought_of(message: dict[str, Any]) -> str:
    for key in _THOUGHT_KEYS:
        thought = message.get(key)
        if isinstance(thought, str) and thought:
            return well_formed(thought)
    return ""


def _text_in(part: dict[str, Any]) -> str:
    """Return the text of a thought, given as text or as parts."""
    for key in ("thinking", "text", "summary", "content"):
        value = part.get(key)
        if isinstance(value, str):
            return well_formed(value)
        if isinstance(value, list):
            return well_formed(
                "\n".join(str(each.get("text", "")) for each in value if isinstance(each, dict))
            )
    return ""
