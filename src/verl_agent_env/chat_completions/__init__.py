"""Chat completions of OpenAI-compatible endpoints: one request, its response, and which failures pass."""

from verl_agent_env.chat_completions.replies import Completion, read_answer, refusal_of
from verl_agent_env.chat_completions.requests import Pauses, Reply, ResponseTooLongError, passes, post

__all__ = [
    "Completion",
    "Pauses",
    "Reply",
    "ResponseTooLongError",
    "passes",
    "post",
    "read_answer",
    "refusal_of",
]
