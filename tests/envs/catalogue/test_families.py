"""The catalogue without its packages: names that are known, errors that say what to install, and nothing imported."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.children import python
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.catalogue.family import Family
from verl_agent_env.envs.registry import EnvSpec, Registry
from verl_agent_env.errors import ExtraNotInstalledError, UnknownEnvNameError

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"[\w:.-]+")
LAKE = "verl_agent_env.envs.frozen_lake:FrozenLakeEnv"

by_name = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.fixture
def registry() -> Registry:
    return Registry({}, FAMILIES)


@by_name
def test_every_row_can_be_registered_and_filtered(family: Family) -> None:
    assert family.specs
    for short, spec in family.specs.items():
        assert NAME.fullmatch(short)
        assert spec.name == f"{family.name}/{short}"
        assert spec.description.endswith(".")
        assert len({"single-turn", "multi-turn"} & set(spec.tags)) == 1
        assert sum(tag.endswith("-player") for tag in spec.tags) == 1
        assert spec.costs is not None
        assert spec.costs.highest_ms > 0


@by_name
def test_what_is_left_out_has_a_cause_and_no_row(family: Family) -> None:
    assert all(family.left_out.values())
    assert not set(family.left_out) & set(family.specs)


@by_name
def test_the_extra_installs_the_version_that_the_names_are_from(family: Family) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert extras[family.extra] == [f"{family.distribution}=={family.version}"]
    (everything,) = extras["catalogue"]
    assert family.extra in re.split(r"[\[\],]", everything)


@by_name
def test_a_name_is_known_without_the_package_and_says_what_to_install(
    family: Family, registry: Registry
) -> None:
    if family.is_installed:
        pytest.skip("the package is installed here")
    name = next(iter(family.specs.values())).name
    assert registry.resolve(name) == name
    assert name not in registry.names()
    assert name in [spec.name for spec in registry.all_specs()]
    with pytest.raises(ExtraNotInstalledError) as caught:
        registry.kind(name)
    assert caught.value.env_name == name
    assert caught.value.extra == family.extra
    assert caught.value.found == ""
    assert f"verl-agent-env[{family.extra}]" in caught.value.detail


def test_an_unknown_name_of_a_family_is_unknown(registry: Registry) -> None:
    with pytest.raises(UnknownEnvNameError) as caught:
        registry.kind("reasoning_gym/chain_sums")
    assert "reasoning_gym/chain_sum" in caught.value.suggestions


def test_other_names_win_the_short_ones_of_the_catalogue() -> None:
    specs = [EnvSpec("acme/chain_sum-v0", LAKE), EnvSpec("verl_env/chess-v0", LAKE)]
    registry = Registry({spec.name: spec for spec in specs}, FAMILIES)
    assert registry.resolve("chain_sum") == "acme/chain_sum-v0"
    assert registry.resolve("chess") == "verl_env/chess-v0"
    assert registry.resolve("reasoning_gym/chain_sum") == "reasoning_gym/chain_sum"
    assert registry.resolve("leg_counting") == "reasoning_gym/leg_counting"


def test_whether_a_name_is_loaded_is_known_before_the_catalogue_is_read(registry: Registry) -> None:
    # Else an event loop would import the package.
    assert not registry.is_loaded("reasoning_gym/chain_sum")
    assert registry.is_loaded("reasoning_gym/no_such_task")


_IMPORTED = """
import json, sys
import verl_agent_env
import verl_agent_env.cli.serve, verl_agent_env.server.app
from verl_agent_env.envs.catalogue.families import FAMILIES
heavy = {family.module for family in FAMILIES} & set(sys.modules)
print(json.dumps([sorted(heavy), [family.name for family in FAMILIES if "_data" in vars(family) and not family.is_installed]]))
"""


def test_importing_the_project_and_the_server_reads_and_imports_nothing_of_the_catalogue() -> None:
    done = python("-c", _IMPORTED)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], []]


_OTHER_VERSION = """
import gymnasium, json, verl_agent_env
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import ExtraNotInstalledError
registry = default_registry()
found = ["reasoning_gym/chain_sum" in registry.names(), "reasoning_gym/chain_sum" in gymnasium.registry]
for make in (registry.kind, gymnasium.make):
    try:
        make("reasoning_gym/chain_sum")
    except ExtraNotInstalledError as missing:
        found += [missing.found]
print(json.dumps(found))
"""


def test_another_version_of_the_package_is_refused(tmp_path: Path) -> None:
    information = tmp_path / "reasoning_gym-0.0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: reasoning-gym\nVersion: 0.0.1\n")
    (tmp_path / "reasoning_gym.py").write_text("raise AssertionError('imported')\n")
    done = python("-c", _OTHER_VERSION, variables={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, True, "0.0.1", "0.0.1"]


def test_the_catalogue_is_suggested_only_within_its_families() -> None:
    registry = Registry({"verl_env/sokoban-v0": EnvSpec("verl_env/sokoban-v0", LAKE)}, FAMILIES)
    with pytest.raises(UnknownEnvNameError) as caught:
        registry.resolve("sokobna")
    assert caught.value.suggestions == ["verl_env/sokoban-v0"]
