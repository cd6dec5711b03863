"""Evaluation of a model over many episodes of a server, with any OpenAI-compatible endpoint."""

from verl_agent_env.evaluation.episodes import EvaluatedEpisode, EvaluationPlan
from verl_agent_env.evaluation.model import (
    AnswerFormat,
    ChatModel,
    ConversationRefusedError,
    ModelRefusedError,
    ModelUnavailableError,
)
from verl_agent_env.evaluation.run import evaluate
from verl_agent_env.evaluation.summary import Summary
from verl_agent_env.moved import renamed

__all__ = [
    "AnswerFormat",
    "ChatModel",
    "ConversationRefusedError",
    "EvaluatedEpisode",
    "EvaluationPlan",
    "ModelRefusedError",
    "ModelUnavailableError",
    "Summary",
    "evaluate",
]

__getattr__ = renamed(__name__, {"Episode": "EvaluatedEpisode", "Plan": "EvaluationPlan"})
