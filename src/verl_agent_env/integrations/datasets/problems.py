"""Looks at one problem after the other: begins its episode, and writes down what a row needs to know of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import orjson

from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.layouts import layout_hash
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.integrations.datasets.layouts import difficulty, layout_arguments
from verl_agent_env.integrations.datasets.plan import Component, CurationPlan
from verl_agent_env.messages import content_text
from verl_agent_env.messages.content import shows_picture
from verl_agent_env.types import Message


class Problem(NamedTuple):
    """A problem that may become a row."""

    seed: int
    layout: str
    difficulty: float | None
    env_kwargs: str
    """JSON."""
    tools: str
    """JSON, in OpenAI's schema."""
    prompt: list[Message]
    """The first messages, their content as text."""
    takes_images: bool


class Refused(NamedTuple):
    """A seed or an argument for which there is no problem."""

    reason: str


class Examiner:
    """Looks at the problems of one component; belongs to one process."""

    def __init__(self, plan: CurationPlan, component: Component) -> None:
        """Check the component's arguments.

        Raises:
            UnknownEnvNameError, InvalidEnvArgumentsError: There is no such environment.
        """
        self._plan = plan
        self._component = component
        self._kind = default_registry().kind(component.env_name)
        self._kind.validate({**component.env_kwargs, **(component.problems or ({},))[0]})
        # One environment serves all seeds; problems with arguments of their own get one each.
        self._shared = None if component.problems is not None else make(self._kind, component.env_kwargs)

    @property
    def env_name(self) -> str:
        """Full name of the environment."""
        return self._kind.name

    def examine(self, number: int) -> Problem | Refused:
        """Begin the episode of the ``number``-th problem."""
        component, plan = self._component, self._plan
        given = {} if component.problems is None else component.problems[number]
        seed = plan.seed + number
        try:
            env = self._shared or make(self._kind, {**component.env_kwargs, **given})
            observation, _ = env.reset(seed=seed)
        except InvalidEnvArgumentsError as refused:
            return Refused(str(refused))
        kwargs = {**component.env_kwargs, **given}
        if plan.with_layout:
            kwargs |= layout_arguments(env)
            # Stands for a map that the layout now says in full; both together are refused.
            kwargs.pop("map_name", None)
        return Problem(
            seed,
            layout_hash(env, observation),
            difficulty(env, plan.measure),
            orjson.dumps(kwargs, option=orjson.OPT_SORT_KEYS).decode(),
            orjson.dumps(tools_of(env)).decode(),
            [
                {"role": message["role"], "content": content_text(message["content"])}
                for message in observation
            ],
            any(map(shows_picture, observation)),
        )


def make(kind: EnvKind, env_kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """An environment of this kind."""
    return kind.build(kind.validate(env_kwargs))


def tools_of(env: gymnasium.Env[Any, Any]) -> list[dict[str, Any]]:
    """The tools of an environment, in OpenAI's schema."""
    return [tool.openai() for tool in getattr(env, "tools", ())]
