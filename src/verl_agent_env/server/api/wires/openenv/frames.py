"""OpenEnv's messages: what clients send, what they get, and the schemas that describe both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentFailedError,
    EnvironmentStateError,
    EpisodeNotStartedError,
    InvalidEnvArgumentsError,
    InvalidRequestError,
    RunQuotaExceededError,
    VerlAgentEnvError,
)
from verl_agent_env.messages import content_text
from verl_agent_env.types import Action, Observation

RESERVED_TOOL_NAMES = frozenset({"reset", "step", "state", "close"})
"""OpenEnv keeps these for itself: a tool of this name cannot be called over this wire."""

_CALL_ID = "call_0"

ACTION_SCHEMA: Mapping[str, Any] = {
    # The title and the one required field are a contract of their own: clients put a model's raw text into an action
    # exactly when they find them so.
    "title": "ChatAction",
    "type": "object",
    "additionalProperties": False,
    "required": ["text"],
    "properties": {
        "text": {
            "type": "string",
            "title": "Text",
            "description": "The model's message, read as the environment reads text.",
        },
        "metadata": {
            "type": "object",
            "title": "Metadata",
            "description": "Extension: 'seq', the number of the step within the episode, makes it safe to send again.",
            "properties": {"seq": {"type": "integer", "minimum": 0}},
        },
    },
}
OBSERVATION_SCHEMA: Mapping[str, Any] = {
    "title": "ChatObservation",
    "type": "object",
    "required": ["text", "messages"],
    "properties": {
        "text": {"type": "string", "title": "Text", "description": "All messages as text."},
        "messages": {
            "type": "array",
            "title": "Messages",
            "description": "Chat messages of role user or tool.",
            "items": {"type": "object"},
        },
        "done": {"type": "boolean", "title": "Done", "default": False},
        "reward": {"anyOf": [{"type": "number"}, {"type": "null"}], "title": "Reward", "default": None},
        "metadata": {"type": "object", "title": "Metadata"},
    },
}
STATE_SCHEMA: Mapping[str, Any] = {
    "title": "State",
    "type": "object",
    "additionalProperties": True,
    "properties": {
        "episode_id": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "title": "Episode Id",
            "default": None,
        },
        "step_count": {"type": "integer", "minimum": 0, "title": "Step Count", "default": 0},
    },
}


class Frame(dict[str, Any]):
    """An answer as it goes onto the wire: ``{"type", "data"}``."""

    def encoded(self) -> bytes:
        """Write it as JSON."""
        return orjson.dumps(self)


def observation_frame(data: Mapping[str, Any]) -> Frame:
    """Answer a reset or a step."""
    return Frame(type="observation", data=data)


def error_frame(code: str, message: str, **more: Any) -> Frame:
    """Say that a message was not carried out; the connection stays open."""
    return Frame(type="error", data={"message": message, "code": code, **more})


def frame_of_error(error: VerlAgentEnvError) -> Frame:
    """Say so with the error of the operation, whose problem document goes along."""
    return error_frame(code_of(error), error.detail, problem=error.to_problem())


def code_of(error: VerlAgentEnvError) -> str:
    """Give OpenEnv's code for an error."""
    if isinstance(error, AtCapacityError | RunQuotaExceededError):
        return "CAPACITY_REACHED"
    if isinstance(error, InvalidRequestError | InvalidEnvArgumentsError | EpisodeNotStartedError):
        return "VALIDATION_ERROR"
    return "EXECUTION_ERROR"


def code_of_session_error(error: VerlAgentEnvError) -> str:
    """Give OpenEnv's code for an error in making or finding a session's environment."""
    if isinstance(error, EnvironmentFailedError):
        return "FACTORY_ERROR"
    return "SESSION_ERROR" if isinstance(error, EnvironmentStateError) else code_of(error)


def shown_observation(
    observation: Observation,
    metadata: Mapping[str, Any],
    *,
    reward: float | None = None,
    done: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Show messages as OpenEnv's clients read an observation.

    Args:
        observation: Chat messages.
        metadata: Info and what else has no place of its own, ``truncated`` among it.
        reward: Of the step; ``None`` for a reset.
        done: Whether the episode is over, terminated or truncated.
        more: Further fields of the observation.
    """
    shown = {"text": text_of(observation), "messages": observation, "metadata": metadata, **more}
    return {"observation": shown, "reward": reward, "done": done, "metadata": metadata}


def text_of(observation: Observation) -> str:
    """Give the texts of all messages, one after the other."""
    return "\n".join(content_text(message["content"]) for message in observation)


def tool_specs(tools: Sequence[Mapping[str, Any]], schema_name: str = "input_schema") -> list[dict[str, Any]]:
    """Show tools of OpenAI's schema as OpenEnv does (``input_schema``), or MCP (``inputSchema``)."""
    return [
        {
            "name": tool["function"]["name"],
            "description": tool["function"]["description"],
            schema_name: tool["function"]["parameters"],
        }
        for tool in tools
    ]


def tool_call(name: str, arguments: Mapping[str, Any]) -> Action:
    """Make the action that calls a tool.

    Raises:
        InvalidRequestError: The name is one of OpenEnv's own.
    """
    if name in RESERVED_TOOL_NAMES:
        raise fault(["tool_name"], f"'{name}' is a name of OpenEnv's own")
    function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": _CALL_ID, "type": "function", "function": function}],
    }


def action_of(data: Mapping[str, Any]) -> Action:
    """Read the action of a step that is no tool's.

    Raises:
        InvalidRequestError: It is neither a text nor an assistant message.
    """
    if "role" in data:
        return {name: value for name, value in data.items() if name != "metadata"}
    unknown = [name for name in data if name not in ("text", "metadata")]
    if unknown:
        raise fault(
            [unknown[0]], "unknown field; an action is {'text'}, an assistant message, or of type call_tool"
        )
    text = data.get("text")
    if not isinstance(text, str):
        raise fault(["text"], "an action needs a text")
    return text


def seq_of(data: Mapping[str, Any]) -> int | None:
    """Read the number of a step from its metadata.

    Raises:
        InvalidRequestError: It is none.
    """
    metadata = data.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise fault(["metadata"], "must be an object")
    seq = metadata.get("seq")
    if seq is not None and (isinstance(seq, bool) or not isinstance(seq, int) or seq < 0):
        raise fault(["metadata", "seq"], "must be a whole number of at least 0")
    return seq


def fault(loc: list[str | int], message: str) -> InvalidRequestError:
    """Make the error for a message that breaks the contract."""
    return InvalidRequestError([{"loc": loc, "msg": message}])
