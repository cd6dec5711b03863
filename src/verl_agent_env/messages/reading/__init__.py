"""Reads a model's text: what of it is spoken, the tool calls written in it, and the marked answers."""

from verl_agent_env.messages.reading.arguments import (
    MAX_CALLS,
    Tools,
    WrittenCall,
    calls_in,
    clean_name,
    is_call,
    read_arguments,
)
from verl_agent_env.messages.reading.envelopes import Found
from verl_agent_env.messages.reading.formats import (
    FORMAT_NAMES,
    FORMATS,
    ActionFormat,
    FormatName,
    read_action_text,
)
from verl_agent_env.messages.reading.marks import Marked, find_boxed, find_tagged, unwrap
from verl_agent_env.messages.reading.spoken import (
    Spoken,
    opened_thought,
    read_spoken,
    strip_thoughts,
    strip_turn_ends,
)
from verl_agent_env.messages.reading.stated import closing_answers, stated_answers
from verl_agent_env.messages.reading.unmarked import MARKS
from verl_agent_env.messages.reading.usual import read_usual

__all__ = [
    "FORMATS",
    "FORMAT_NAMES",
    "MARKS",
    "MAX_CALLS",
    "ActionFormat",
    "FormatName",
    "Found",
    "Marked",
    "Spoken",
    "Tools",
    "WrittenCall",
    "calls_in",
    "clean_name",
    "closing_answers",
    "find_boxed",
    "find_tagged",
    "is_call",
    "opened_thought",
    "read_action_text",
    "read_arguments",
    "read_spoken",
    "read_usual",
    "stated_answers",
    "strip_thoughts",
    "strip_turn_ends",
    "unwrap",
]
