"""Demonstrations: what a solver would do, written as a model would write it."""

from __future__ import annotations

from collections.abc import Iterable

from verl_agent_env.types import Action


def actions_of_calls(tool_names: Iterable[str]) -> list[Action]:
    """One assistant message for each tool, which takes no arguments, with a single call of it."""
    return [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
            ],
        }
        for number, name in enumerate(tool_names)
    ]
