"""Demonstrations: episodes that the environments' solvers play, in the format that a model is to write."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import orjson

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.integrations.datasets.plan import CurationPlan
from verl_agent_env.integrations.datasets.problems import Problem, make
from verl_agent_env.integrations.errors import CurationError
from verl_agent_env.messages import content_text
from verl_agent_env.types import Action, Message


class Demonstration(NamedTuple):
    """A demonstrated episode, as training data."""

    messages: list[Message]
    """Messages with role and content only: tool calls are part of the content, as the model is to write them."""
    tools: str
    """JSON, in OpenAI's schema."""
    reward: float
    success: bool


class Manner(NamedTuple):
    """Options of demonstrations; the plan has fields of the same names."""

    demonstration_format: str
    noise: float
    max_turns: int
    system_prompt: str | None

    @classmethod
    def of(cls, plan: CurationPlan) -> Manner:
        """Take the options from a plan."""
        return cls(plan.demonstration_format, plan.noise, plan.max_turns, plan.system_prompt)


def demonstrate(manner: Manner, named: tuple[str, Problem]) -> Demonstration:
    """Play an episode with the environment's solver and a share of random actions.

    Args:
        manner: Options of the demonstration.
        named: Name of the environment, and the problem.

    Raises:
        CurationError: The environment has no solver for the problem.
    """
    env_name, problem = named
    kind = default_registry().kind(env_name)
    env = make(kind, orjson.loads(problem.env_kwargs))
    if not isinstance(env, ChatEnv):
        raise CurationError(f"'{env_name}' has no solver; make no demonstrations of it.")
    env.reset(seed=problem.seed)
    dice = random.Random(problem.seed)
    messages = [*system_messages(manner.system_prompt), *problem.prompt]
    plan_ahead = env.solution()
    if plan_ahead is None:
        raise CurationError(f"No solution of '{env_name}' with seed {problem.seed} is known; leave it out.")
    total, success = 0.0, False
    for _ in range(manner.max_turns):
        if plan_ahead and dice.random() >= manner.noise:
            action, plan_ahead = plan_ahead[0], plan_ahead[1:]
        else:
            # Astray, perhaps for good: then what follows is random as well.
            action, plan_ahead = env.sample_action(dice), None
        said, played = written(action, manner.demonstration_format)
        messages.append({"role": "assistant", "content": said})
        observation, reward, terminated, truncated, info = env.step(played)
        total += reward
        if terminated or truncated:
            success = bool(info["success"])
            break
        messages += [{"role": m["role"], "content": content_text(m["content"])} for m in observation]
        if plan_ahead is None:
            plan_ahead = env.solution()
    if messages[-1]["role"] != "assistant":
        # Messages after the last answer teach nothing.
        del messages[_last_assistant(messages) + 1 :]
    return Demonstration(messages, problem.tools, total, success)


def system_messages(system_prompt: str | None) -> list[Message]:
    """Return the system message as a list, which is empty without one."""
    return [{"role": "system", "content": system_prompt}] if system_prompt else []


def written(action: Action, form: str) -> tuple[str, Action]:
    """Return an action as the model is to write it, and as the environment receives it.

    A tool call in Hermes' format reaches the environment as the structured call of a rollout's parser, so that a message
    of the role ``tool`` answers it; ``<answer>`` reaches it as text.
    """
    calls: list[dict[str, Any]] = action.get("tool_calls", []) if isinstance(action, dict) else []
    if not calls:
        text = content_text(action["content"]) if isinstance(action, dict) else str(action)
        return text, text
    functions = [call["function"] for call in calls]
    if form == "hermes":
        said = "\n".join(
            f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}\n</tool_call>'
            for function in functions
        )
        return said, action
    said = f"<answer>{' || '.join(map(_as_words, functions))}</answer>"
    return said, said


def _as_words(function: dict[str, Any]) -> str:
    """Return a call in words: its arguments, or the tool's name without any."""
    arguments = orjson.loads(function["arguments"])
    if not arguments:
        return str(function["name"])
    return " ".join(map(str, arguments.values()))


def _last_assistant(messages: list[Message]) -> int:
    return max(i for i, message in enumerate(messages) if message["role"] == "assistant")
