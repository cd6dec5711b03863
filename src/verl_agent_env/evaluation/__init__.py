"""How well a model plays: many episodes against a server, with any OpenAI-compatible endpoint."""

from verl_agent_env.evaluation.episodes import Episode, Plan
from verl_agent_env.evaluation.model import (
    AnswerFormat,
    ChatModel,
    ConversationRefusedError,
    ModelRefusedError,
    ModelUnavailableError,
)
from verl_agent_env.evaluation.run import evaluate
from verl_agent_env.evaluation.summary import Summary

__all__ = [
    "AnswerFormat",
    "ChatModel",
    "ConversationRefusedError",
    "Episode",
    "ModelRefusedError",
    "ModelUnavailableError",
    "Plan",
    "Summary",
    "evaluate",
]
