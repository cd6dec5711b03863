"""Names: short ones, versions, near misses, and what other packages add."""

from __future__ import annotations

import importlib.metadata
import warnings
from typing import Any

import gymnasium
import pytest

from verl_agent_env.envs import registry as registry_module
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.registry import BUILT_IN, EnvSpec, Registry, default_registry
from verl_agent_env.errors import UnknownEnvNameError

LAKE = "verl_agent_env.envs.frozen_lake:FrozenLakeEnv"


def registry_of(*names: str) -> Registry:
    return Registry({name: EnvSpec(name, LAKE) for name in names})


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_built_in_names_are_known_to_gymnasium_with_their_presets(spec: EnvSpec) -> None:
    known = gymnasium.registry[spec.name]
    assert known.entry_point == spec.entry_point
    assert known.kwargs == spec.presets


@pytest.mark.parametrize(
    "name", ["frozen_lake", "frozen_lake-v1", "verl_env/frozen_lake", "verl_env/frozen_lake-v1"]
)
def test_short_names_resolve(name: str) -> None:
    registry = default_registry()
    assert registry.resolve(name) == "verl_env/frozen_lake-v1"
    assert registry.kind(name) is registry.kind("verl_env/frozen_lake-v1")
    assert registry.kind(name).env_class is FrozenLakeEnv


def test_without_a_version_the_newest_is_meant() -> None:
    registry = registry_of("a/game-v2", "a/game-v10", "a/game-v9", "a/other")
    assert registry.resolve("game") == registry.resolve("a/game") == "a/game-v10"
    assert registry.resolve("game-v2") == "a/game-v2"
    assert registry.resolve("other") == "a/other"


def test_built_in_names_win_short_names() -> None:
    registry = registry_of("verl_env/game-v0", "zzz/game-v7")
    assert registry.resolve("game") == "verl_env/game-v0"
    assert registry.resolve("zzz/game") == "zzz/game-v7"


@pytest.mark.parametrize("name", ["frozn_lake", "frozen-lake", "verl_env/frozen_lake-v2"])
def test_near_miss_is_suggested(name: str) -> None:
    with pytest.raises(UnknownEnvNameError) as caught:
        default_registry().resolve(name)
    assert caught.value.env_name == name
    assert "verl_env/frozen_lake-v1" in caught.value.suggestions
    assert "Did you mean" in caught.value.detail


@pytest.mark.parametrize("name", ["", "x" * 10_000, "qqqqqq", "\ud800", "../../etc/passwd"])
def test_nonsense_is_refused_shortly(name: str) -> None:
    with pytest.raises(UnknownEnvNameError) as caught:
        default_registry().kind(name)
    assert len(caught.value.env_name) <= 128
    assert len(caught.value.suggestions) <= 3


def test_newer_version_takes_over_short_names_already_used() -> None:
    registry = registry_of("acme/takeover-v0")
    old = registry.kind("takeover")
    registry.register(EnvSpec("acme/takeover-v1", LAKE))
    try:
        assert registry.kind("takeover").name == "acme/takeover-v1"
        assert registry.kind("takeover-v0") is old
        assert "acme/takeover-v1" in gymnasium.registry
    finally:
        gymnasium.registry.pop("acme/takeover-v1")


def test_taken_name_is_refused_unless_it_means_the_same() -> None:
    registry = registry_of("acme/taken-v0")
    with pytest.raises(ValueError, match="registered already"):
        registry.register(EnvSpec("acme/taken-v0", "elsewhere:Env"))
    registry.register(EnvSpec("acme/taken-v0", LAKE))
    gymnasium.registry.pop("acme/taken-v0")


@pytest.mark.parametrize(
    "entry_point", ["no_such_module:Env", "json:JSONDecoder", "json:no_such_class", "json"]
)
def test_entry_point_that_is_no_environment_raises_import_error(entry_point: str) -> None:
    registry = Registry({"a/b-v0": EnvSpec("a/b-v0", entry_point)})
    with pytest.raises(ImportError):
        registry.kind("b")


def test_names_come_sorted() -> None:
    assert registry_of("b/x-v0", "a/y-v0").names() == ["a/y-v0", "b/x-v0"]
    assert [spec.name for spec in registry_of("b/x-v0", "a/y-v0").specs()] == ["a/y-v0", "b/x-v0"]


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a test say which entry points are installed."""

    def install(*named: tuple[str, str]) -> None:
        entries = [importlib.metadata.EntryPoint(name, value, "verl_agent_env.envs") for name, value in named]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: entries)
        default_registry.cache_clear()

    yield install
    monkeypatch.undo()
    default_registry.cache_clear()


def test_entry_points_are_added_and_cannot_replace_built_in_names(entry_points: Any) -> None:
    entry_points(("acme/x-v0", "acme:X"), ("verl_env/frozen_lake-v1", "acme:FakeLake"))
    registry = default_registry()
    assert registry.resolve("x") == "acme/x-v0"
    assert registry.kind("frozen_lake").env_class is FrozenLakeEnv


def test_name_that_gymnasium_refuses_is_passed_over_with_a_warning(entry_points: Any) -> None:
    entry_points(("not a name!", "acme:X"), ("acme/fine-v0", "acme:Y"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        registry_module.register_with_gymnasium()
    assert ["not a name!" in str(warning.message) for warning in caught] == [True]
    assert gymnasium.registry.pop("acme/fine-v0").entry_point == "acme:Y"
