"""A registered kind of environment: its class, its preset arguments, and the construction of instances."""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium
import orjson

from verl_agent_env.envs.arguments import EnvArguments
from verl_agent_env.envs.async_env import AsyncChatEnv
from verl_agent_env.envs.base import ChatEnv, Durability, Execution
from verl_agent_env.envs.episode_env import SNAPSHOT_FORMAT
from verl_agent_env.envs.fingerprint import fingerprint_of
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.messages.tools import DRAFT

_MAX_CACHED_ARGUMENTS = 256
_MAX_CACHED_BYTES = 4096
_MAX_INLINE_MS = 50.0
"""Limit of the duration of a call of an inline environment; other calls wait as long."""


class EnvKind:
    """Kind of environment behind a registered name.

    The class is a :class:`ChatEnv`, or any ``gymnasium.Env`` whose observations and actions are chat messages; the latter
    gets its keyword arguments unvalidated and runs in a thread.
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
        self.records_effects = False
        """True if actions and recorded outcomes of calls to the outside determine an episode; see :meth:`fitting`."""
        self.replays = self.deterministic
        """True if an episode can be played again, from its seed and what was recorded of its steps."""
        self.has_state = (
            env_class.dump_state is not ChatEnv.dump_state
            if issubclass(env_class, ChatEnv)
            else callable(getattr(env_class, "snapshot", None))
            and callable(getattr(env_class, "restore", None))
        )
        """True if its environments have a ``snapshot``."""
        self.digests_state = self.is_chat_env and self.has_state
        """True if its environments have a ``state_digest``."""
        self.state_format = _state_format(env_class) if self.has_state else None
        """Format of its snapshots: only kinds of the same format can read them."""
        self.reads_calls = issubclass(env_class, ChatEnv) and _reads_calls(env_class)
        """True if the result of ``calls_of`` determines an action's effect."""
        self._validated: OrderedDict[bytes, Any] = OrderedDict()
        self._variants: dict[tuple[Execution, bool, bool, bool], EnvKind] = {}
        self._fitting: dict[int, tuple[weakref.ref[Any], EnvKind]] = {}
        """Keyed by the identity of arguments, for as long as these exist."""

    @property
    def durability(self) -> Durability:
        """Durability of its environments in a cluster: ``journal`` where effects are recorded, else as its class declares,
        else the cheapest exact one.

        The journal stores a step as its action and a digest; a snapshot has to be written after each step. So the journal, with
        an occasional snapshot, is cheaper for every kind that can be replayed.
        """
        if self.records_effects:
            return "journal"
        declared: Durability | None = getattr(self.env_class, "durability", None)
        if declared is not None:
            return declared
        if self.deterministic:
            return "journal"
        return "snapshot" if self.has_state else "none"

    @property
    def uses_thread(self) -> bool:
        """True if its environments run in a thread, which then also closes them."""
        return self.execution in ("compute", "thread")

    @property
    def has_known_layouts(self) -> bool:
        """True if the layout of a seed can be computed: the seed determines the episode, and it begins without waiting."""
        return self.deterministic and self.execution != "async"

    def task_lists(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return the tasks that the class lists itself, by split."""
        return cast("type[ChatEnv]", self.env_class).task_lists() if self.is_chat_env else {}

    def cost_ms(self, arguments: Any) -> float:
        """Estimate the milliseconds that one call of an environment with these arguments computes at most."""
        return cast("type[ChatEnv]", self.env_class).cost_ms(arguments) if self.is_chat_env else 1.0

    def fitting(self, arguments: Any) -> EnvKind:
        """Return the kind under which environments with these arguments run and are kept.

        It is not inline if a call computes long or waits, it replays if all calls to the outside are recorded, and it does not replay
        calls alone if the reward or the info depends on the text of an action. It has no state if a part of that is elsewhere.
        """
        if not self.is_chat_env:
            return self
        # Environments with equal arguments share them as one object.
        key = id(arguments)
        known = self._fitting.get(key)
        if known is None:
            gone = weakref.ref(arguments, lambda _: self._fitting.pop(key, None))
            known = self._fitting[key] = gone, self._variant(arguments)
        return known[1]

    def _variant(self, arguments: Any) -> EnvKind:
        env_class = cast("type[ChatEnv]", self.env_class)
        records_effects = env_class.records_effects(arguments)
        reads_calls = self.reads_calls and not arguments.needs_text
        execution = env_class.execution_for(arguments)
        if execution == "inline" and records_effects:
            # It waits for the outside.
            execution = "thread"
        elif execution == "inline" and self.cost_ms(arguments) > _MAX_INLINE_MS:
            execution = "compute"
        has_state = self.has_state and env_class.has_whole_state(arguments)
        traits = execution, records_effects, reads_calls, has_state
        if traits == (self.execution, self.records_effects, self.reads_calls, self.has_state):
            return self
        variant = self._variants.get(traits)
        if variant is None:
            variant = self._variants[traits] = copy.copy(self)
            variant.execution, variant.records_effects, variant.reads_calls, variant.has_state = traits
            variant.replays = self.deterministic or records_effects
        return variant

    @functools.cached_property
    def code(self) -> bytes:
        """Fingerprint of its code: kinds of the same code give the same observations."""
        return fingerprint_of(self.env_class)

    @property
    def description(self) -> str:
        """First sentence of the class's docstring."""
        return _first_sentence(inspect.getdoc(self.env_class) or "")

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.env_class)

    def validate(self, kwargs: Mapping[str, Any]) -> Any:
        """Validate keyword arguments without building anything; equal ones share one validated object.

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
        """Build an environment from the result of :meth:`validate`."""
        if self.is_chat_env:
            return self.env_class(arguments=arguments)  # type: ignore[call-arg]
        return self.env_class(**arguments)

    def arguments_schema(self) -> dict[str, Any]:
        """Return the JSON Schema (Draft 2020-12) of the keyword arguments, with the presets as defaults."""
        if not self.is_chat_env:
            return {"$schema": DRAFT, "type": "object"}
        schema = cast("type[ChatEnv]", self.env_class).Arguments.model_json_schema()
        for name, value in self.presets.items():
            schema["properties"][name] = {**schema["properties"][name], "default": value}
        return {"$schema": DRAFT, **schema}

    def argument_groups(self) -> list[tuple[str, list[str]]]:
        """Return the names of the keyword arguments in groups, the environment's own first, those of all environments last.

        A group is a class of arguments; its title is the first sentence of the docstring, else the name of the class.
        """
        if not self.is_chat_env:
            return []
        own = cast("type[ChatEnv]", self.env_class).Arguments
        classes = [each for each in own.__mro__ if issubclass(each, EnvArguments)]
        # What a subclass only gives another default belongs to the class that has it first.
        origin = {name: each for each in classes for name in each.__annotations__ if name in own.model_fields}
        groups = {each: [name for name in own.model_fields if origin[name] is each] for each in classes}
        return [
            (_first_sentence(each.__doc__ or each.__name__).rstrip("."), names)
            for each, names in groups.items()
            if names
        ]

    def default_task_prompt(self) -> str | None:
        """Return the task prompt of an environment with the default arguments; ``None`` where there is no such environment."""
        if not self.is_chat_env:
            return None
        try:
            env = cast("ChatEnv", self.build(self.validate({})))
        except InvalidEnvArgumentsError:
            return None
        try:
            return env.task_prompt()
        finally:
            env.close()


class _Unavailable(gymnasium.Env[Any, Any]):
    """Environment class of a kind that is not installed here."""


def unavailable_kind(name: str) -> EnvKind:
    """Make a placeholder for a kind that is not installed here, for environments that other workers created."""
    return EnvKind(name, _Unavailable, {})


def _first_sentence(docstring: str) -> str:
    return " ".join(docstring.split("\n\n", 1)[0].split())


def _state_format(env_class: type[gymnasium.Env[Any, Any]]) -> str:
    version: object = getattr(env_class, "state_version", 1)
    return f"{SNAPSHOT_FORMAT}.{version}" if issubclass(env_class, ChatEnv) else f"{version}"


def _reads_calls(env_class: type[ChatEnv]) -> bool:
    """Return true if the class leaves the reading of actions to its base class."""
    if issubclass(env_class, AsyncChatEnv):
        return env_class.astep is AsyncChatEnv.astep and env_class.step is AsyncChatEnv.step
    return env_class.step is ChatEnv.step


def _cache_key(kwargs: Mapping[str, Any]) -> bytes | None:
    try:
        key = orjson.dumps(kwargs, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, orjson.JSONEncodeError):
        return None
    return key if len(key) <= _MAX_CACHED_BYTES else None
