"""Kinds: arguments checked before anything is built, and shared where they are equal."""

from __future__ import annotations

import weakref
from typing import Any

import gymnasium
import pytest
from jsonschema import Draft202012Validator

from verl_agent_env.envs.arguments import EnvArguments
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.grid import GridArguments
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import InvalidEnvArgumentsError


class PlainEnv(gymnasium.Env[Any, Any]):
    """A plain environment
    over two lines. And more.

    More of it.
    """

    built = 0

    def __init__(self, size: int = 3, broken: bool = False) -> None:
        PlainEnv.built += 1
        self.size = size
        if broken:
            raise TypeError("a fault inside")


@pytest.fixture
def lake() -> EnvKind:
    return EnvKind("a/lake-v0", FrozenLakeEnv, {"size": 5})


@pytest.fixture
def plain() -> EnvKind:
    return EnvKind("a/plain-v0", PlainEnv, {"size": 4})


def test_presets_are_arguments_that_a_caller_overrides(lake: EnvKind, plain: EnvKind) -> None:
    assert lake.validate({}).size == 5
    assert lake.validate({"size": 6}).size == 6
    assert plain.validate({}) == {"size": 4}
    assert plain.build(plain.validate({"size": 9})).size == 9  # type: ignore[attr-defined]


def test_equal_arguments_are_validated_once(lake: EnvKind) -> None:
    arguments = lake.validate({"desc": ["SFG"], "max_steps": 7})
    assert lake.validate({"max_steps": 7, "desc": ["SFG"]}) is arguments
    assert lake.validate({"max_steps": 8, "desc": ["SFG"]}) is not arguments
    assert lake.build(arguments).arguments is arguments  # type: ignore[attr-defined]


def test_arguments_that_came_long_ago_are_let_go(lake: EnvKind) -> None:
    first = lake.validate({"max_steps": 1})
    for steps in range(2, 300):
        lake.validate({"max_steps": steps})
    assert lake.validate({"max_steps": 1}) is not first


def test_large_arguments_are_not_kept(lake: EnvKind) -> None:
    large = {"task_prompt": "x" * 5000}
    assert lake.validate(large) is not lake.validate(large)
    arguments = lake.validate(large)
    kept = weakref.ref(arguments)
    assert lake.fitting(arguments) is lake.fitting(arguments)
    del arguments
    assert kept() is None


@pytest.mark.parametrize(
    ("kwargs", "loc"),
    [
        ({"size": 1_000_000}, ["size"]),
        ({"nope": 1}, ["nope"]),
        ({"size": "x"}, ["size"]),
        ({"glyphs": {"player": ""}}, ["glyphs", "player"]),
        ({"success_rate": float("nan")}, ["success_rate"]),
        ({"observation_style": []}, ["observation_style"]),
        ({"observation_style": ["grid"] * 6}, ["observation_style"]),
        ({"task_prompt": {1, 2}}, ["task_prompt"]),
    ],
)
def test_wrong_arguments_are_named(lake: EnvKind, kwargs: dict[str, Any], loc: list[str]) -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        lake.validate(kwargs)
    assert caught.value.errors[0]["loc"][: len(loc)] == loc
    assert caught.value.env_name == FrozenLakeEnv.env_name


def test_arguments_that_a_plain_class_does_not_take_are_refused_before_it_is_built(plain: EnvKind) -> None:
    before = PlainEnv.built
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        plain.validate({"nope": 1})
    assert caught.value.env_name == "a/plain-v0"
    assert PlainEnv.built == before


def test_type_error_inside_a_plain_class_is_its_own(plain: EnvKind) -> None:
    with pytest.raises(TypeError, match="a fault inside"):
        plain.build(plain.validate({"broken": True}))


def test_plain_class_runs_in_a_thread_and_claims_nothing(plain: EnvKind, lake: EnvKind) -> None:
    assert (plain.execution, plain.deterministic, plain.is_chat_env) == ("thread", False, False)
    assert (lake.execution, lake.deterministic, lake.is_chat_env) == ("inline", True, True)


def test_description_is_the_first_paragraph(plain: EnvKind) -> None:
    assert plain.description == "A plain environment over two lines. And more."


def test_schema_of_arguments_is_valid_and_describes_them(lake: EnvKind, plain: EnvKind) -> None:
    schema = lake.arguments_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["size"]["default"] == 5
    # A field that refers to a model is described there.
    assert all("description" in field or "$ref" in field for field in schema["properties"].values())
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"size": 4, "observation_style": ["grid", "local"]})
    assert not validator.is_valid({"size": 0})
    assert not validator.is_valid({"nope": 0})
    Draft202012Validator.check_schema(plain.arguments_schema())


@pytest.mark.parametrize(
    ("name", "cheap", "costly"),
    [
        ("sokoban", {}, {"dim_room": [40, 40], "num_boxes": 20}),
        ("sokoban", {"min_pushes": 2, "dim_room": [6, 6], "num_boxes": 1}, {"min_pushes": 20}),
        (
            "sokoban",
            {"observation_mode": "image"},
            {"observation_mode": "image", "max_actions_per_turn": 1000},
        ),
        ("frozen_lake", {"size": 16}, {"size": 64, "frozen_prob": 0.3}),
        (
            "frozen_lake",
            {"observation_mode": "both"},
            {"size": 40, "observation_mode": "both", "tile_px": 64},
        ),
        ("countdown", {}, {"num_numbers": 8, "target_range": [999_983, 999_983]}),
        ("countdown", {"num_numbers": 4, "target_range": [24, 24]}, {"max_actions_per_turn": 1000}),
    ],
)
def test_what_computes_long_with_some_arguments_is_not_inline_with_them(
    name: str, cheap: dict[str, Any], costly: dict[str, Any]
) -> None:
    kind = default_registry().kind(name)
    assert kind.fitting(kind.validate(cheap)) is kind
    assert kind.execution == "inline"
    apart = kind.fitting(kind.validate(costly))
    assert (apart.execution, apart.uses_thread, apart.name) == ("compute", True, kind.name)
    assert kind.fitting(kind.validate(costly)) is apart


def test_all_presets_are_inline() -> None:
    registry = default_registry()
    kinds = [registry.kind(spec.name) for spec in registry.specs() if spec.presets]
    assert all(kind.execution == "inline" and kind.fitting(kind.validate({})) is kind for kind in kinds)


def test_arguments_are_grouped_by_the_class_that_has_them_first(lake: EnvKind, plain: EnvKind) -> None:
    class NamelessArguments(GridArguments):
        max_steps: int = 7
        depth: int = 1

    class NamelessEnv(FrozenLakeEnv):
        Arguments = NamelessArguments

    groups = dict(EnvKind("a/nameless-v0", NamelessEnv, {}).argument_groups())
    assert groups["NamelessArguments"] == ["depth"]
    assert "max_steps" in groups["Keyword arguments of all environments"]
    assert lake.argument_groups()[0][0] == "Keyword arguments of FrozenLake"
    assert plain.argument_groups() == []


def test_a_task_prompt_is_that_of_the_default_arguments(lake: EnvKind, plain: EnvKind) -> None:
    class DemandingArguments(EnvArguments):
        depth: int

    class DemandingEnv(FrozenLakeEnv):
        Arguments = DemandingArguments

    assert EnvKind("a/lake-v0", FrozenLakeEnv, {"task_prompt": "Walk."}).default_task_prompt() == "Walk."
    assert (lake.default_task_prompt() or "").startswith("You are walking")
    assert plain.default_task_prompt() is None
    assert EnvKind("a/demanding-v0", DemandingEnv, {}).default_task_prompt() is None


class OutsideLakeEnv(FrozenLakeEnv):
    """A lake whose every call to the outside is recorded where it has a limit of steps below a hundred."""

    deterministic = False

    @classmethod
    def records_effects(cls, arguments: EnvArguments) -> bool:
        return arguments.max_steps < 100


def test_kind_whose_effects_are_recorded_replays() -> None:
    kind = EnvKind("a/lake-v0", OutsideLakeEnv, {})
    assert not kind.fitting(kind.validate({})).replays
    assert kind.fitting(kind.validate({"max_steps": 99})).replays
