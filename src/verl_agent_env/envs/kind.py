"""A registered kind of environment: its class, its preset arguments, and how instances of it are made."""

from __future__ import annotations

import copy
import functools
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium
import orjson

from verl_agent_env.envs.async_env import AsyncChatEnv
from verl_agent_env.envs.base import SNAPSHOT_FORMAT, ChatEnv, Durability, Execution
from verl_agent_env.envs.fingerprint import fingerprint_of
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.messages.tools import DRAFT

_MAX_CACHED_ARGUMENTS = 256
_MAX_CACHED_BYTES = 4096
_MAX_INLINE_MS = 50.0
"""What one call of an inline environment may cost; others wait as long."""


class EnvKind:
    """What a registered name stands for.

    Besides :class:`ChatEnv` it takes any ``gymnasium.Env`` whose observations and actions are chat messages; such a
    class gets its keyword arguments as they come and runs in a thread.
    """

    def __init__(
        self, name: str, env_class: type[gymnasium.Env[Any, Any]], presets: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.env_class = env_class
        self.presets = dict(presets)
        self.is_chat_env = issubclass(env_class, ChatEnv)
        self.execution: Execution = getattr(env_class, "execution", "thread")
        self.deterministic: bool = getattr(env_class, "deterministic", False)
        self.has_state = (
            env_class.dump_state is not ChatEnv.dump_state
            if issubclass(env_class, ChatEnv)
            else callable(getattr(env_class, "snapshot", None))
            and callable(getattr(env_class, "restore", None))
        )
        """Whether its environments have a ``snapshot``."""
        self.digests_state = self.is_chat_env and self.has_state
        """Whether its environments have a ``state_digest``."""
        self.state_format = _state_format(env_class) if self.has_state else None
        """Of its snapshots: only kinds of the same format can read them."""
        self.reads_calls = issubclass(env_class, ChatEnv) and _reads_calls(env_class)
        """Whether an action means no more than what ``calls_of`` gives."""
        self._validated: OrderedDict[bytes, Any] = OrderedDict()
        self._fitting: dict[int, tuple[Any, EnvKind]] = {}
        """By the identity of arguments, which are kept so that nothing else can have it."""

    @property
    def durability(self) -> Durability:
        """How its environments are kept where they can be: as their class says, else in the cheapest exact way.

        A step of the journal is what was sent and a digest; a snapshot has to be written after each step. So the
        journal, with a snapshot now and then, is cheaper for whatever can be played again.
        """
        declared: Durability | None = getattr(self.env_class, "durability", None)
        if declared is not None:
            return declared
        if self.deterministic:
            return "journal"
        return "snapshot" if self.has_state else "none"

    @property
    def uses_thread(self) -> bool:
        """Whether its environments run in a thread, which may be given up and is then the one to close them."""
        return self.execution in ("compute", "thread")

    @property
    def has_known_layouts(self) -> bool:
        """Whether the layout of a seed can be looked at: an episode follows from its seed, and begins without waiting."""
        return self.deterministic and self.execution != "async"

    def task_lists(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Give the tasks that the class lists itself, by split."""
        return cast("type[ChatEnv]", self.env_class).task_lists() if self.is_chat_env else {}

    def cost_ms(self, arguments: Any) -> float:
        """About how many milliseconds one call of an environment with these arguments computes at most."""
        return cast("type[ChatEnv]", self.env_class).cost_ms(arguments) if self.is_chat_env else 1.0

    def fitting(self, arguments: Any) -> EnvKind:
        """The kind as environments with these arguments are run: not inline where a call computes long."""
        if self.execution != "inline":
            return self
        # Environments with equal arguments share them as one object.
        known = self._fitting.get(id(arguments))
        if known is None or known[0] is not arguments:
            fitting = self if self.cost_ms(arguments) <= _MAX_INLINE_MS else self._computing
            if len(self._fitting) >= _MAX_CACHED_ARGUMENTS:
                self._fitting.clear()
            known = self._fitting[id(arguments)] = arguments, fitting
        return known[1]

    @functools.cached_property
    def _computing(self) -> EnvKind:
        computing = copy.copy(self)
        computing.execution = "compute"
        return computing

    @functools.cached_property
    def code(self) -> bytes:
        """Fingerprint of its code: kinds of the same code show an environment in the same words."""
        return fingerprint_of(self.env_class)

    @property
    def description(self) -> str:
        """First sentence of the class's docstring."""
        return (inspect.getdoc(self.env_class) or "").split("\n\n", 1)[0].replace("\n", " ")

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.env_class)

    def validate(self, kwargs: Mapping[str, Any]) -> Any:
        """Check keyword arguments before anything is built; equal ones share one validated object.

        Raises:
            InvalidEnvArgumentsError: An argument is unknown or out of its range.
        """
        merged = {**self.presets, **kwargs}
        if not self.is_chat_env:
            try:
                self._signature.bind(**merged)
            except TypeError as unfit:
                raise InvalidEnvArgumentsError(self.name, [{"loc": [], "msg": str(unfit)}]) from None
            return merged
        chat_class = cast("type[ChatEnv]", self.env_class)
        key = _cache_key(merged)
        if key is None:
            return chat_class.validate_arguments(merged)
        arguments = self._validated.get(key)
        if arguments is None:
            arguments = chat_class.validate_arguments(merged)
            if len(self._validated) >= _MAX_CACHED_ARGUMENTS:
                self._validated.popitem(last=False)
            self._validated[key] = arguments
        return arguments

    def build(self, arguments: Any) -> gymnasium.Env[Any, Any]:
        """A new environment from what :meth:`validate` gave."""
        if self.is_chat_env:
            return self.env_class(arguments=arguments)  # type: ignore[call-arg]
        return self.env_class(**arguments)

    def arguments_schema(self) -> dict[str, Any]:
        """JSON Schema (Draft 2020-12) of the keyword arguments, the presets as defaults."""
        if not self.is_chat_env:
            return {"$schema": DRAFT, "type": "object"}
        schema = cast("type[ChatEnv]", self.env_class).Arguments.model_json_schema()
        for name, value in self.presets.items():
            schema["properties"][name] = {**schema["properties"][name], "default": value}
        return {"$schema": DRAFT, **schema}


class _Unavailable(gymnasium.Env[Any, Any]):
    """An environment of a kind that is not installed here."""


def unavailable_kind(name: str) -> EnvKind:
    """Stand in for a kind that is not installed, for environments that others made of it."""
    return EnvKind(name, _Unavailable, {})


def _state_format(env_class: type[gymnasium.Env[Any, Any]]) -> str:
    version: object = getattr(env_class, "state_version", 1)
    return f"{SNAPSHOT_FORMAT}.{version}" if issubclass(env_class, ChatEnv) else f"{version}"


def _reads_calls(env_class: type[ChatEnv]) -> bool:
    """Whether the class leaves the reading of actions to its base."""
    if issubclass(env_class, AsyncChatEnv):
        return env_class.astep is AsyncChatEnv.astep and env_class.step is AsyncChatEnv.step
    return env_class.step is ChatEnv.step


def _cache_key(kwargs: Mapping[str, Any]) -> bytes | None:
    try:
        key = orjson.dumps(kwargs, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, orjson.JSONEncodeError):
        return None
    return key if len(key) <= _MAX_CACHED_BYTES else None
