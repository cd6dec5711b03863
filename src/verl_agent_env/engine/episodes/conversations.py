"""Conversations of kept episodes, as trainers take them for supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from verl_agent_env.messages import content_text
from verl_agent_env.types import Message


def conversation_of(episode: Mapping[str, Any]) -> list[Message]:
    """Return the messages of an episode, the last of which is the model's; each has a role and a text alone.

    Calls of tools are written in the text as ``<tool_call>{JSON}</tool_call>``, which is how most models write them.

    Args:
        episode: As :meth:`~verl_agent_env.wire.episodes.KeptEpisode.to_json` writes it.
    """
    messages = messages_of(episode)
    while messages and messages[-1]["role"] != "assistant":
        # Nothing follows on it that could be learnt.
        messages.pop()
    return messages


def messages_of(episode: Mapping[str, Any]) -> list[Message]:
    """Return all messages of an episode, as :func:`conversation_of`, also what was observed last."""
    messages = _seen(episode.get("observation"))
    for step in episode["steps"]:
        messages.append({"role": "assistant", "content": said(step["action"])})
        messages += _seen(step["observation"])
    return messages


def said(action: Any) -> str:
    """Return an action as a model writes it."""
    if isinstance(action, str):
        return action
    if isinstance(action, list):
        return "\n".join(filter(None, map(said, action)))
    if not isinstance(action, Mapping):
        return ""
    content = action.get("content", "")
    texts = [content_text(content)] if content else []
    for call in action.get("tool_calls") or ():
        function = call.get("function", {})
        texts.append(_call_text(function.get("name", ""), function.get("arguments") or "{}"))
    for call in action.get("calls") or ():
        # Of a long action of an environment that moved, its calls alone are known.
        texts.append(_call_text(call.get("name", ""), orjson.dumps(call.get("arguments", {})).decode()))
    return "\n".join(texts)


def _call_text(name: str, arguments: Any) -> str:
    written = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return f'<tool_call>\n{{"name": "{name}", "arguments": {written}}}\n</tool_call>'


def _seen(observation: Any) -> list[Message]:
    return [
        {"role": message["role"], "content": content_text(message["content"])}
        for message in observation or ()
        if isinstance(message, Mapping) and "role" in message and "content" in message
    ]
