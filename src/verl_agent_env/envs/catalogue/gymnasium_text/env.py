"""A Gymnasium environment with words: its observations are said, and its actions are a tool."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
from pydantic import Field

from verl_agent_env.envs.base import EnvArguments, Execution
from verl_agent_env.envs.catalogue.adapter import TimedEnv, adapter_class
from verl_agent_env.envs.catalogue.gymnasium_text.words import ActionWords, lacks_words, words_of
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.messages import ToolCall
from verl_agent_env.types import Content

_NAMES = ("action_names", "ACTION_NAMES")


class GymnasiumTextArguments(EnvArguments):
    """Keyword arguments of environments made of Gymnasium's."""

    max_steps: int = Field(default=1_000, ge=1, le=1_000_000)
    """Moves after which the episode is truncated, if the environment's own limit is not reached before."""


class GymnasiumTextEnv(TimedEnv):
    """Act in a Gymnasium environment whose spaces have words.

    Nothing is known of it but its spaces: it runs in a thread, and cannot be played again elsewhere. A subclass may say more:
    ``env_id``, ``action_names``, ``describe``, ``deterministic``.

    ## Action Space

    The tool ``act``: ``action`` is a name of a Discrete space's value (the environment's own ``action_names``, else numbers),
    ``text`` a text; of a Dict space its parts. In plain text the name or the text alone does as well.

    ## Observation

    The environment's, in words: text as it is, numbers, a line for each key of a Dict.

    ## Rewards

    The environment's own.

    ## Episode End

    Terminated and truncated as the environment is; ``success`` in the info if it terminates with a reward above 0.

    ## Arguments

    See :class:`GymnasiumTextArguments`.
    """

    Arguments: ClassVar[type[EnvArguments]] = GymnasiumTextArguments
    execution: ClassVar[Execution] = "thread"
    deterministic: ClassVar[bool] = False
    env_id: ClassVar[str]
    """Of the environment, as Gymnasium knows it."""
    action_names: ClassVar[Sequence[str]] = ()
    """Of the values of a Discrete action space."""
    action_words: ClassVar[ActionWords]
    arguments: GymnasiumTextArguments

    __slots__ = ("_inner", "_seen")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "env_id" in vars(cls):
            cls.action_words = _action_words(cls.env_name, cls.env_id, cls.action_names)
            cls.tools = (cls.action_words.tool,)
        super().__init_subclass__(**kwargs)

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, **kwargs)
        self._inner: gymnasium.Env[Any, Any] | None = None

    def task_prompt_text(self) -> str:
        return "Each turn, call the tool act, or answer with the action alone. Get the highest reward that you can."

    def describe(self, observation: Any) -> str:
        """An observation in words."""
        return words_of(observation)

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if self._inner is None:
            self._inner = gymnasium.make(self.env_id, disable_env_checker=True)
        observation, _ = self._inner.reset(seed=self.episode_seed, options=dict(options))
        self._seen = self.describe(observation)
        self.timed_out = False

    def observe(self) -> Content:
        return self._seen

    def act(self, call: ToolCall) -> Outcome:
        if self.timed_out or self._inner is None:
            return Outcome(fault="The environment's time limit is reached.", effective=False)
        try:
            action = self.action_words.action_of(call.arguments)
        except ValueError as unfit:
            return Outcome(fault=str(unfit), effective=False)
        observation, reward, terminated, truncated, _ = self._inner.step(action)
        self._seen = self.describe(observation)
        self.timed_out = bool(truncated and not terminated)
        return Outcome(
            reward=float(reward), terminated=bool(terminated), success=bool(terminated and float(reward) > 0)
        )

    def call_from_word(self, word: str) -> ToolCall:
        arguments = self.action_words.arguments_of_word(word)
        return super().call_from_word(word) if arguments is None else ToolCall("act", arguments)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()


def _action_words(env_name: str, env_id: str, names: Sequence[str]) -> ActionWords:
    """The words of an environment's actions.

    Raises:
        InvalidEnvArgumentsError: Its spaces have no words.
    """
    try:
        with contextlib.closing(gymnasium.make(env_id, disable_env_checker=True)) as env:
            fault = lacks_words(env.observation_space)
            if fault:
                raise ValueError(f"its observations are {fault}, which has no words")
            own = next((found for name in _NAMES if (found := getattr(env.unwrapped, name, None))), ())
            return ActionWords(env.action_space, names or list(own))
    except (ValueError, gymnasium.error.Error, ImportError) as unfit:
        fault = f"{unfit}; 'verl-agent-env wrap {env_id}' writes an adapter to be filled in"
        raise InvalidEnvArgumentsError(env_name, [{"loc": ["env_name"], "msg": fault}]) from None


@functools.cache
def make_class(env_id: str) -> type[GymnasiumTextEnv]:
    """The class of the environment that Gymnasium knows by this id.

    Raises:
        AttributeError: It knows none.
        InvalidEnvArgumentsError: Its spaces have no words.
    """
    if env_id not in gymnasium.registry:
        raise AttributeError(f"Gymnasium knows no environment '{env_id}'")
    spec = EnvSpec(
        f"gymnasium_text/{env_id.replace('/', '.')}", "", description=f"Gymnasium's {env_id}, in words."
    )
    return adapter_class(GymnasiumTextEnv, spec, env_id=env_id, execution="thread")
