"""Demonstrations: actions of a solver in the form that a model would write."""

from __future__ import annotations

from collections.abc import Iterable

from verl_agent_env.types import Action


def actions_of_calls(tool_names: Iterable[str]) -> list[Action]:
    """Make one assistant message with a single call for each tool; the tools take no arguments."""
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
