"""Registry of environments: built-in ones, named presets, the catalogue's, and those of other packages.

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
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from verl_agent_env.envs import presets
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.catalogue.family import Family
from verl_agent_env.envs.spec import EnvSpec as EnvSpec
from verl_agent_env.errors import UnknownEnvNameError

if TYPE_CHECKING:
    from verl_agent_env.envs.kind import EnvKind

ENTRY_POINT_GROUP = "verl_agent_env.envs"
REMOTE = "verl_env/remote-v0"
"""Gymnasium's name for an environment of a server."""

_TEXT_PREFIX = "gymnasium_text/"
"""Prefix of the name that shows an environment of Gymnasium in words."""
_MAX_SUGGESTED = 256

_NAME = re.compile(r"(?:(?P<namespace>[^/]+)/)?(?P<short>.+?)(?:-v(?P<version>\d+))?")


_SOKOBAN = "verl_agent_env.envs.sokoban:SokobanEnv"
_FROZEN_LAKE = "verl_agent_env.envs.frozen_lake:FrozenLakeEnv"
_COUNTDOWN = "verl_agent_env.envs.countdown:CountdownEnv"
_SINGLE_TURN_CHAT = "verl_agent_env.envs.single_turn_chat:SingleTurnChatEnv"
_CONNECT_FOUR = "verl_agent_env.envs.connect_four:ConnectFourEnv"
_MCP_CHAT = "verl_agent_env.envs.mcp_chat:McpChatEnv"
_PYTHON_TOOL = "verl_agent_env.envs.python_tool:PythonToolEnv"


_TURNS = ("multi-turn", "1-player")
_PUZZLE = (*_TURNS, "solver")
_GRID = (*_PUZZLE, "images")


def _presets(
    entry_point: str, variants: Mapping[str, presets.Preset], tags: tuple[str, ...]
) -> Iterator[EnvSpec]:
    for name, preset in variants.items():
        yield EnvSpec(name, entry_point, preset, presets.SOURCES.get(name, ""), tags=(*tags, "preset"))


BUILT_IN = (
    EnvSpec("verl_env/sokoban-v0", _SOKOBAN, tags=_GRID),
    EnvSpec("verl_env/frozen_lake-v1", _FROZEN_LAKE, tags=_GRID),
    EnvSpec("verl_env/countdown-v0", _COUNTDOWN, tags=_PUZZLE),
    EnvSpec("verl_env/connect_four-v0", _CONNECT_FOUR, tags=("multi-turn", "2-player")),
    EnvSpec("verl_env/single_turn_chat-v0", _SINGLE_TURN_CHAT, tags=("single-turn", "1-player")),
    EnvSpec("verl_env/mcp_chat-v0", _MCP_CHAT, tags=_TURNS),
    EnvSpec("verl_env/python_tool-v0", _PYTHON_TOOL, tags=(*_TURNS, "tools")),
    *_presets(_SOKOBAN, presets.SOKOBAN, _GRID),
    *_presets(_FROZEN_LAKE, presets.FROZEN_LAKE, _GRID),
    *_presets(_COUNTDOWN, presets.COUNTDOWN, _PUZZLE),
)


class Registry:
    """Kinds of environments by name; :meth:`register` adds more.

    The names of a family of the catalogue are read from its data when the first of them is asked for, or all names.
    """

    def __init__(self, specs: Mapping[str, EnvSpec], families: Iterable[Family] = ()) -> None:
        self._specs = dict(specs)
        self._unread = list(families)
        """Families whose names are not in ``_specs`` yet."""
        self._kinds: dict[str, EnvKind] = {}
        self._known_aliases: dict[str, str] | None = None
        self._suggested: dict[str, list[str]] = {}

    def register(self, spec: EnvSpec) -> None:
        """Add an environment, also to Gymnasium's registry.

        Raises:
            ValueError: The name is taken by another entry point.
        """
        known = self._specs.get(spec.name)
        if known is not None and known != spec:
            raise ValueError(f"'{spec.name}' is registered already, as {known.entry_point}")
        self._add([spec])
        # Short names may now resolve to the new one.
        self._kinds = {kind.name: kind for kind in self._kinds.values()}
        _register_one(spec)

    def names(self) -> list[str]:
        """Return the names of all environments that are installed here, sorted."""
        return [spec.name for spec in self.specs()]

    def specs(self) -> list[EnvSpec]:
        """Return all environments that are installed here, sorted by name."""
        self._read([family for family in self._unread if family.is_installed])
        families = {spec.family for spec in self._specs.values() if spec.family is not None}
        missing = {family for family in families if not family.is_installed}
        return [spec for spec in self._by_name() if spec.family not in missing]

    def all_specs(self) -> list[EnvSpec]:
        """Return all environments, also those whose packages are not installed, sorted by name."""
        self._read(self._unread)
        return self._by_name()

    def spec(self, name: str) -> EnvSpec:
        """Return the environment of this name, or short name.

        Raises:
            UnknownEnvNameError: The name is unknown.
        """
        full = self.resolve(name)
        env_id = _text_id(full)
        if full in self._specs or env_id is None:
            return self._specs[full]
        return EnvSpec(full, f"verl_agent_env.envs.catalogue.gymnasium_text:{env_id}")

    def resolve(self, name: str) -> str:
        """Return the registered name for ``name``, which may lack the namespace, the version, or both.

        Raises:
            UnknownEnvNameError: No such name; the error suggests similar ones.
        """
        full = self._full_name(name)
        if full is None:
            raise UnknownEnvNameError(name[:128], self._suggestions(name[:128]))
        return full

    def completions(self, start: str) -> list[str]:
        """Return the names that begin with ``start``: short ones too, unless all names are asked for."""
        return sorted(name for name in (self._aliases if start else self._specs) if name.startswith(start))

    def _suggestions(self, name: str) -> list[str]:
        # Takes a millisecond: cached for batches that repeat one wrong name thousands of times.
        known = self._suggested.get(name)
        if known is None:
            known = self._near(name)
            if len(self._suggested) >= _MAX_SUGGESTED:
                self._suggested.clear()
            self._suggested[name] = known
        return list(known)

    def _near(self, name: str) -> list[str]:
        """Return up to three similar names: of the family whose namespace ``name`` has, else of all outside the catalogue."""
        namespace = name.partition("/")[0]
        families = {spec.family.name for spec in self._specs.values() if spec.family is not None}
        if namespace in families:
            candidates = {
                alias: full for alias, full in self._aliases.items() if alias.startswith(f"{namespace}/")
            }
        else:
            candidates = {
                alias: full for alias, full in self._aliases.items() if self._specs[full].family is None
            }
        near = difflib.get_close_matches(name, candidates, n=6, cutoff=0.6)
        return list(dict.fromkeys(candidates[alias] for alias in near))[:3]

    def preset_of(self, spec: EnvSpec) -> str | None:
        """Return the name of the environment that ``spec`` is a preset of; ``None`` if it is none."""
        if not spec.presets:
            return None
        same = (each for each in self._specs.values() if each.entry_point == spec.entry_point)
        return min((each.name for each in same if not each.presets), default=None)

    def kind(self, name: str) -> EnvKind:
        """Return the kind of this name, importing its class.

        Raises:
            UnknownEnvNameError: No such environment.
            ExtraNotInstalledError: It belongs to a package that is not installed.
            ImportError: The class cannot be imported.
        """
        known = self._kinds.get(name)
        if known is None:
            # Imported here: a program that only registers names, such as a client, loads no environment code.
            from verl_agent_env.envs.kind import EnvKind

            spec = self.spec(name)
            known = self._kinds.get(spec.name)
            if known is None:
                known = EnvKind(spec.name, _import_class(spec.entry_point), spec.presets)
                _register_one(spec)
            self._kinds[name] = self._kinds[spec.name] = known
        return known

    def is_loaded(self, name: str) -> bool:
        """Return true if :meth:`kind` imports nothing for this name: it did before, or the name is unknown."""
        return name in self._kinds or self._full_name(name) in (None, *self._kinds)

    def known(self) -> list[EnvKind]:
        """Return the kinds loaded so far, each once."""
        return [*{kind.name: kind for kind in list(self._kinds.values())}.values()]

    # --- inner workings -------------------------------------------------------------------------------------

    def _by_name(self) -> list[EnvSpec]:
        return sorted(self._specs.values(), key=lambda spec: spec.name)

    def _full_name(self, name: str) -> str | None:
        full = self._aliases.get(name)
        if full is None and self._unread:
            self._read(self._unread)
            full = self._aliases.get(name)
        return name if full is None and _text_id(name) is not None else full

    def _read(self, families: list[Family]) -> None:
        """Add the names of these families."""
        if families:
            self._add(spec for family in families for spec in family.specs.values())
            self._unread = [family for family in self._unread if family not in families]

    def _add(self, specs: Iterable[EnvSpec]) -> None:
        # A new dictionary: another thread may go through the one before.
        self._specs = self._specs | {spec.name: spec for spec in specs}
        self._known_aliases = None
        self._suggested = {}

    @property
    def _aliases(self) -> dict[str, str]:
        """Registered names by their short names."""
        if self._known_aliases is None:
            self._known_aliases = _aliases_of(self._specs.values())
        return self._known_aliases


def _aliases_of(specs: Iterable[EnvSpec]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    # Ascending versions: the newest wins its short names. Built-in names win over those of other packages, and these
    # over the catalogue's.
    ordered = sorted(specs, key=_precedence)
    for spec in ordered:
        match = _NAME.fullmatch(spec.name)
        if match is None:
            continue
        namespace, short, version = match["namespace"], match["short"], match["version"]
        for prefix in (f"{namespace}/" if namespace else "", ""):
            aliases[prefix + short] = spec.name
            if version is not None:
                aliases[f"{prefix}{short}-v{version}"] = spec.name
    return aliases | {spec.name: spec.name for spec in ordered}


def _precedence(spec: EnvSpec) -> tuple[bool, bool, str, int]:
    match = _NAME.fullmatch(spec.name)
    short, version = (match["short"], int(match["version"] or 0)) if match else (spec.name, 0)
    return spec.name.startswith("verl_env/"), spec.family is None, short, version


@functools.cache
def default_registry() -> Registry:
    """Return the registry of this process, filled on first use."""
    specs = {spec.name: spec for spec in BUILT_IN}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        specs.setdefault(entry.name, EnvSpec(entry.name, entry.value))
    return Registry(specs, FAMILIES)


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
    if spec.name in gymnasium.registry:
        return
    if spec.family is None:
        gymnasium.register(id=spec.name, entry_point=spec.entry_point, kwargs=dict(spec.presets))
    else:
        # Of names that are known to be fine and in no other version: ``register`` looks at all others for each of them.
        gymnasium.registry[spec.name] = GymnasiumSpec(spec.name, spec.entry_point)


def _text_id(name: str) -> str | None:
    """Return Gymnasium's id of the environment that ``name`` shows in words; ``None`` if it is no such name.

    A name has one namespace, so ``gymnasium_text/acme.Door-v0`` means ``acme/Door-v0``.
    """
    if not name.startswith(_TEXT_PREFIX):
        return None
    rest = name.removeprefix(_TEXT_PREFIX)
    return next(
        (env_id for env_id in (rest, rest.replace(".", "/", 1)) if env_id in gymnasium.registry), None
    )


def _import_class(entry_point: str) -> type[gymnasium.Env[Any, Any]]:
    module_name, _, class_name = entry_point.partition(":")
    found = getattr(importlib.import_module(module_name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, gymnasium.Env)):
        raise ImportError(f"'{entry_point}' is not a class derived from gymnasium.Env")
    return found
