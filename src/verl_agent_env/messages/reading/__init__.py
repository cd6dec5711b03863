"""Parser of a model's text: removal of thoughts, tool calls in the text, and marked answers."""

from verl_agent_env.messages.reading.arguments import (
    ARGUMENT_KEYS,
    MAX_CALLS,
    Tools,
    WrittenCall,
    arguments_of,
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
from verl_agent_env.messages.reading.marks import Marked, find_boxed, find_tagged, unwrap, without_language
from verl_agent_env.messages.reading.stated import closing_answers, stated_answers
from verl_agent_env.messages.reading.thoughts import (
    VisibleText,
    opened_thought,
    separate_thoughts,
    strip_thoughts,
    strip_turn_ends,
)
from verl_agent_env.messages.reading.unmarked import MARKS, marked_text
from verl_agent_env.messages.reading.usual import read_usual

__all__ = [
    "ARGUMENT_KEYS",
    "FORMATS",
    "FORMAT_NAMES",
    "MARKS",
    "MAX_CALLS",
    "ActionFormat",
    "FormatName",
    "Found",
    "Marked",
    "Tools",
    "VisibleText",
    "WrittenCall",
    "arguments_of",
    "calls_in",
    "clean_name",
    "closing_answers",
    "find_boxed",
    "find_tagged",
    "is_call",
    "marked_text",
    "opened_thought",
    "read_action_text",
    "read_arguments",
    "read_usual",
    "separate_thoughts",
    "stated_answers",
    "strip_thoughts",
    "strip_turn_ends",
    "unwrap",
    "without_language",
]
