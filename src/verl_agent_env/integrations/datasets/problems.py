"""Examination of problems: begins an episode of each and collects the data of a row."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import gymnasium
import orjson

from verl_agent_env.envs.base import ChatEnv
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
    """A problem that can become a row."""

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
    place: str = ""
    """Where a problem of one's own was: ``line 3``."""
    has_no_known_solution: bool = False
    """True if it is one of one's own and the environment's solver finds nothing."""


class Refused(NamedTuple):
    """A seed or an argument for which there is no problem."""

    reason: str
    place: str = ""
    """Where a problem of one's own was."""


class Examiner:
    """Examines the problems of one component, in one process."""

    def __init__(self, plan: CurationPlan, component: Component) -> None:
        """Check the component's arguments.

        Raises:
            UnknownEnvNameError, InvalidEnvArgumentsError: There is no such environment.
        """
        self._plan = plan
        self._component = component
        self._kind = default_registry().kind(component.env_name)
        # One environment serves all seeds; problems with arguments of their own get one each, and are checked one by one.
        self._shared = None if component.given is not None else make(self._kind, component.env_kwargs)

    @property
    def env_name(self) -> str:
        """Full name of the environment."""
        return self._kind.name

    def examine(self, number: int) -> Problem | Refused:
        """Begin the episode of the ``number``-th problem."""
        component, plan = self._component, self._plan
        seed, given, place = plan.seed + number, {}, ""
        if component.given is not None:
            place, own, reason = component.given[number]
            if own is None:
                return Refused(reason, place)
            given = own
        try:
            env = self._shared or make(self._kind, {**component.env_kwargs, **given})
            observation, _ = env.reset(seed=seed)
        except InvalidEnvArgumentsError as refused:
            return Refused(str(refused), place)
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
            place,
            bool(place) and _has_solver(env) and env.solution() is None,
        )


def _has_solver(env: gymnasium.Env[Any, Any]) -> TypeGuard[ChatEnv]:
    return isinstance(env, ChatEnv) and type(env).solution is not ChatEnv.solution


def make(kind: EnvKind, env_kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Create an environment of this kind."""
    return kind.build(kind.validate(env_kwargs))


def tools_of(env: gymnasium.Env[Any, Any]) -> list[dict[str, Any]]:
    """Return the tools of an environment, in OpenAI's schema."""
    return [tool.openai() for tool in getattr(env, "tools", ())]
