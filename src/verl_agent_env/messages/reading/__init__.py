"""Reads a model's text: what of it is spoken, the tool calls written in it, and the marked answers."""

from verl_agent_env.messages.reading.marks import Marked, find_boxed, find_tagged, unwrap
from verl_agent_env.messages.reading.spoken import Spoken, read_spoken, strip_thoughts, strip_turn_ends

__all__ = [
    "Marked",
    "Spoken",
    "find_boxed",
    "find_tagged",
    "read_spoken",
    "strip_thoughts",
    "strip_turn_ends",
    "unwrap",
]
