"""Registry of environments: built-in ones, named presets, and those of other packages.

Another package registers its environments as entry points, by name::

    [project.entry-points."verl_agent_env.envs"]
    "acme/coin_flip-v0" = "acme_envs:CoinFlipEnv"

A class is imported on the first use of its name.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium

from verl_agent_env.envs import presets
from verl_agent_env.errors import UnknownEnvNameError

if TYPE_CHECKING:
    from verl_agent_env.envs.kind import EnvKind

ENTRY_POINT_GROUP = "verl_agent_env.envs"
REMOTE = "verl_env/remote-v0"
"""Gymnasium's name for an environment of a server."""

_MAX_SUGGESTED = 256

_NAME = re.compile(r"(?:(?P<namespace>[^/]+)/)?(?P<short>.+?)(?:-v(?P<version>\d+))?")


@dataclass(frozen=True)
class EnvSpec:
    """Registered name and the location of its class."""

    name: str
    """``namespace/short_name-vN``."""
    entry_point: str
    """``module:Class``."""
    presets: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that differ from the class's defaults."""
    source: str = ""
    """Project and version that a preset reproduces."""


_SOKOBAN = "verl_agent_env.envs.sokoban:SokobanEnv"
_FROZEN_LAKE = "verl_agent_env.envs.frozen_lake:FrozenLakeEnv"
_COUNTDOWN = "verl_agent_env.envs.countdown:CountdownEnv"
_SINGLE_TURN_CHAT = "verl_agent_env.envs.single_turn_chat:SingleTurnChatEnv"
_MCP_CHAT = "verl_agent_env.envs.mcp_chat:McpChatEnv"


def _presets(entry_point: str, variants: Mapping[str, presets.Preset]) -> Iterator[EnvSpec]:
    for name, preset in variants.items():
        yield EnvSpec(name, entry_point, preset, presets.SOURCES.get(name, ""))


BUILT_IN = (
    EnvSpec("verl_env/sokoban-v0", _SOKOBAN),
    EnvSpec("verl_env/frozen_lake-v1", _FROZEN_LAKE),
    EnvSpec("verl_env/countdown-v0", _COUNTDOWN),
    EnvSpec("verl_env/single_turn_chat-v0", _SINGLE_TURN_CHAT),
    EnvSpec("verl_env/mcp_chat-v0", _MCP_CHAT),
    *_presets(_SOKOBAN, presets.SOKOBAN),
    *_presets(_FROZEN_LAKE, presets.FROZEN_LAKE),
    *_presets(_COUNTDOWN, presets.COUNTDOWN),
)


class Registry:
    """Kinds of environments by name; :meth:`register` adds more."""

    def __init__(self, specs: Mapping[str, EnvSpec]) -> None:
        self._specs = dict(specs)
        self._kinds: dict[str, EnvKind] = {}
        self._aliases: dict[str, str] = {}
        self._suggested: dict[str, list[str]] = {}
        self._rebuild_aliases()

    def register(self, spec: EnvSpec) -> None:
        """Add an environment, also to Gymnasium's registry.

        Raises:
            ValueError: The name is taken by another entry point.
        """
        known = self._specs.get(spec.name)
        if known is not None and known != spec:
            raise ValueError(f"'{spec.name}' is registered already, as {known.entry_point}")
        self._specs[spec.name] = spec
        self._rebuild_aliases()
        # Short names may now resolve to the new one.
        self._kinds = {kind.name: kind for kind in self._kinds.values()}
        _register_one(spec)

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        return sorted(self._specs)

    def specs(self) -> list[EnvSpec]:
        """Return all registered environments, sorted by name."""
        return [self._specs[name] for name in self.names()]

    def resolve(self, name: str) -> str:
        """Return the registered name for ``name``, which may lack the namespace, the version, or both.

        Raises:
            UnknownEnvNameError: No such name; the error suggests similar ones.
        """
        full = self._aliases.get(name)
        if full is None:
            raise UnknownEnvNameError(name[:128], self._suggestions(name[:128]))
        return full

    def _suggestions(self, name: str) -> list[str]:
        # Takes a millisecond: cached for batches that repeat one wrong name thousands of times.
        known = self._suggested.get(name)
        if known is None:
            near = difflib.get_close_matches(name, self._aliases, n=6, cutoff=0.6)
            known = list(dict.fromkeys(self._aliases[alias] for alias in near))[:3]
            if len(self._suggested) >= _MAX_SUGGESTED:
                self._suggested.clear()
            self._suggested[name] = known
        return list(known)

    def kind(self, name: str) -> EnvKind:
        """Return the kind of this name, importing its class.

        Raises:
            UnknownEnvNameError: No such environment.
            ImportError: The class cannot be imported.
        """
        known = self._kinds.get(name)
        if known is None:
            # Imported here: a program that only registers names, such as a client, loads no environment code.
            from verl_agent_env.envs.kind import EnvKind

            spec = self._specs[self.resolve(name)]
            known = self._kinds.get(spec.name)
            if known is None:
                known = EnvKind(spec.name, _import_class(spec.entry_point), spec.presets)
            self._kinds[name] = self._kinds[spec.name] = known
        return known

    def is_loaded(self, name: str) -> bool:
        """Return true if :meth:`kind` imports nothing for this name: it did before, or the name is unknown."""
        return name in self._kinds or self._aliases.get(name) in (None, *self._kinds)

    def known(self) -> list[EnvKind]:
        """Return the kinds loaded so far, each once."""
        return [*{kind.name: kind for kind in list(self._kinds.values())}.values()]

    def _rebuild_aliases(self) -> None:
        aliases: dict[str, str] = {}
        # Ascending versions: the newest wins its short names. Built-in names win over those of other packages.
        ordered = sorted(self._specs, key=lambda name: (name.startswith("verl_env/"), *_version_of(name)))
        for name in ordered:
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            namespace, short, version = match["namespace"], match["short"], match["version"]
            for prefix in (f"{namespace}/" if namespace else "", ""):
                aliases[prefix + short] = name
                if version is not None:
                    aliases[f"{prefix}{short}-v{version}"] = name
        self._aliases = aliases | {name: name for name in self._specs}
        self._suggested = {}


@functools.cache
def default_registry() -> Registry:
    """Return the registry of this process, filled on first use."""
    specs = {spec.name: spec for spec in BUILT_IN}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        specs.setdefault(entry.name, EnvSpec(entry.name, entry.value))
    return Registry(specs)


def register_with_gymnasium() -> None:
    """Make every name known to ``gymnasium.make``; repeated calls change nothing.

    Names of other packages that Gymnasium refuses are skipped with a warning.
    """
    _register_remote()
    for spec in default_registry().specs():
        try:
            _register_one(spec)
        except gymnasium.error.Error as refused:
            warnings.warn(f"'{spec.name}' is unknown to gymnasium.make: {refused}", stacklevel=2)


def _register_remote() -> None:
    """Register the environment that is made from a server's URL, with Gymnasium only."""
    if REMOTE not in gymnasium.registry:
        gymnasium.register(
            id=REMOTE,
            entry_point="verl_agent_env.client.remote_env:RemoteEnv",
            vector_entry_point="verl_agent_env.client.remote_vector_env:RemoteVectorEnv",
        )


def _register_one(spec: EnvSpec) -> None:
    if spec.name not in gymnasium.registry:
        gymnasium.register(id=spec.name, entry_point=spec.entry_point, kwargs=dict(spec.presets))


def _import_class(entry_point: str) -> type[gymnasium.Env[Any, Any]]:
    module_name, _, class_name = entry_point.partition(":")
    found = getattr(importlib.import_module(module_name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, gymnasium.Env)):
        raise ImportError(f"'{entry_point}' is not a class derived from gymnasium.Env")
    return found


def _version_of(name: str) -> tuple[str, int]:
    match = _NAME.fullmatch(name)
    return (match["short"], int(match["version"] or 0)) if match else (name, 0)
