"""The checker: passes what is right, also of other packages, and finds each fault of a faulty environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import pytest

from tests import depth
from tests.children import python
from verl_agent_env.envs.checker import CheckReport, CheckResult, check_environment
from verl_agent_env.envs.checker.checks import CHECKS
from verl_agent_env.envs.checker.subject import digest_of, subject_of
from verl_agent_env.envs.registry import BUILT_IN, EnvSpec, Registry, default_registry
from verl_agent_env.errors import UnknownEnvNameError

FAULTY = EnvSpec("acme/faulty_coin-v0", "acme_envs.faulty:FaultyCoinEnv")
FAULTY_QUIZ = EnvSpec("acme/faulty_quiz-v0", "acme_envs.faulty_quiz:FaultyQuizEnv")
FAULTY_DUEL = EnvSpec("acme/faulty_duel-v0", "acme_envs.faulty_duel:FaultyDuelEnv")
SANDBOXED = "verl_env/python_tool-v0"

FAULTS = [
    ("leaks_in_info", "no_solution"),
    ("leaks_in_observation", "no_solution"),
    ("leaks_solution_list", "no_solution"),
    ("spoiling_key", "no_solution"),
    ("global_random", "same_seed"),
    ("global_random", "global_random"),
    ("seeds_global_random", "global_random"),
    ("seeds_global_random", "independent_instances"),
    ("module_state", "independent_instances"),
    ("salted_hash", "other_process"),
    ("unseeded", "same_seed"),
    ("snapshot_forgets", "snapshots"),
    ("snapshot_huge", "snapshots"),
    ("raises_on_bad_action", "malformed_actions"),
    ("not_json", "results"),
    ("not_json", "malformed_actions"),
    ("reward_is_nan", "results"),
    ("observation_outside_space", "gymnasium"),
    ("observation_outside_space", "results"),
    ("shared_info", "results"),
    ("space_per_instance", "spaces"),
    ("bad_schema", "json_schemas"),
    ("never_truncates", "truncation"),
    ("steps_after_end", "refusals"),
    ("loses_tool_messages", "tool_messages"),
]

QUIZ_FAULTS = [("wrong_solution", "solutions"), ("pays_junk", "junk"), ("slow", "costs")]
DUEL_FAULTS = [(fault, "seats") for fault in ("forgets_turn", "shows_change", "pays_one", "nobody_in_turn")]


@pytest.fixture
def registry(acme_importable: None) -> Registry:
    registry = Registry({})
    for spec in (FAULTY, FAULTY_QUIZ, FAULTY_DUEL):
        gymnasium.registry.pop(spec.name, None)
        registry.register(spec)
    return registry


def faults_of(report: CheckReport) -> list[CheckResult]:
    """What is wrong, without costs: they are CPU time, and this machine may be slow or busy."""
    return [failure for failure in report.failures if failure.name != "costs"]


IN_THIS_PROCESS = [name for name, _ in CHECKS if name != "other_process"]
"""That check starts two processes, and loading the package takes longer than playing: see the tests that ask for ``digests``."""

# Each step of the sandboxed one starts a process.
BASES = [spec.name for spec in BUILT_IN if not spec.presets and spec.name != SANDBOXED]
PRESETS = [
    spec.name
    for spec in default_registry().specs()
    if spec.name not in (*BASES, SANDBOXED) and spec.family is None
]


@pytest.mark.parametrize("name", BASES)
def test_every_environment_passes(name: str) -> None:
    is_whole = name == BASES[0] or not depth.is_shallow()
    report = check_environment(name, only=None if is_whole else IN_THIS_PROCESS)
    assert faults_of(report) == []
    if is_whole:
        assert report.deterministic is True
        assert [result.name for result in report.results] == [check_name for check_name, _ in CHECKS]
    assert report.figures.us_per_step is not None
    assert report.figures.us_per_step > 0


def test_an_environment_whose_steps_run_programs_passes() -> None:
    left_out = ("measures", "other_process", "gymnasium")
    only = [check_name for check_name, _ in CHECKS if check_name not in left_out]
    assert faults_of(check_environment(SANDBOXED, num_steps=2, seeds=(1,), only=only)) == []


@pytest.mark.parametrize("kwargs", [{"opponent": "self"}, {"opponent": "block"}])
def test_both_kinds_of_connect_four_pass(kwargs: dict[str, Any]) -> None:
    report = check_environment("connect_four", kwargs, only=["gymnasium", "results", "snapshots", "seats"])
    assert faults_of(report) == []
    (seats,) = (result for result in report.results if result.name == "seats")
    assert seats.skipped == (kwargs["opponent"] != "self")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_and_installed_environment_passes(name: str) -> None:
    only = [check_name for check_name, _ in CHECKS if check_name not in ("measures", "other_process")]
    assert faults_of(check_environment(name, num_steps=15, seeds=(3,), only=only)) == []


def digests(names: Iterable[str]) -> dict[str, str]:
    """What the check ``other_process`` compares, by the name of the environment."""
    registry = default_registry()
    specs = {spec.name: spec for spec in registry.specs()}
    return {
        name: digest_of(subject_of(registry.kind(name), specs[name], {}, 15, (3,)).play_all())
        for name in names
    }


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_every_environment_plays_the_same_in_another_process(hash_seed: str) -> None:
    names = [*BASES, *PRESETS]
    ask = "import json, sys; from tests.envs.test_checker import digests; print(json.dumps(digests(sys.argv[1:])))"
    done = python("-c", ask, *names, variables={"PYTHONHASHSEED": hash_seed})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == digests(names)


@pytest.mark.parametrize("short", ["frozen_lake", "sokoban"])
def test_live_grid_worlds_are_small(short: str) -> None:
    figures = check_environment(short, only=["measures", "snapshots"]).figures
    assert figures.bytes_per_instance is not None
    assert figures.snapshot_bytes is not None
    assert 200 < figures.bytes_per_instance < 3_000
    assert 20 < figures.snapshot_bytes < 500


@pytest.mark.parametrize(
    ("short", "kwargs"),
    [
        ("frozen_lake", {"is_slippery": True, "map_name": "4x4"}),
        ("frozen_lake", {"max_actions_per_turn": 5, "observation_mode": "both", "size": 4}),
        ("frozen_lake", {"invalid_action_ends_episode": True, "include_task_prompt": False}),
        ("sokoban", {"dim_room": [6, 6], "num_boxes": 1, "observation_style": ["coordinates", "local"]}),
    ],
)
def test_arguments_are_checked_as_given(short: str, kwargs: dict[str, Any]) -> None:
    only = None if "map_name" in kwargs else IN_THIS_PROCESS
    assert faults_of(check_environment(short, kwargs, num_steps=20, seeds=(1,), only=only)) == []


@pytest.mark.parametrize(("name", "only"), [(FAULTY.name, None), (FAULTY_QUIZ.name, IN_THIS_PROCESS)])
def test_the_faulty_sample_without_its_fault_passes(
    registry: Registry, name: str, only: list[str] | None
) -> None:
    assert faults_of(check_environment(name, registry=registry, num_steps=20, only=only)) == []


@pytest.mark.parametrize(
    ("name", "fault", "check"),
    [
        *((FAULTY.name, *pair) for pair in FAULTS),
        *((FAULTY_QUIZ.name, *pair) for pair in QUIZ_FAULTS),
        *((FAULTY_DUEL.name, *pair) for pair in DUEL_FAULTS),
    ],
)
def test_a_fault_is_found(registry: Registry, name: str, fault: str, check: str) -> None:
    report = check_environment(name, {"fault": fault}, registry=registry, num_steps=30, only=[check])
    assert not report.passed
    assert [failure.name for failure in report.failures] == [check]
    assert report.failures[0].detail


def test_every_fault_of_the_sample_and_every_check_is_covered(registry: Registry) -> None:
    for name, faults in (
        (FAULTY.name, FAULTS),
        (FAULTY_QUIZ.name, QUIZ_FAULTS),
        (FAULTY_DUEL.name, DUEL_FAULTS),
    ):
        schema = registry.kind(name).arguments_schema()
        assert {fault for fault, _ in faults} == set(schema["properties"]["fault"]["enum"]) - {"none"}
    # Nothing fails at measuring, the rest must be able to.
    assert {check for _, check in [*FAULTS, *QUIZ_FAULTS, *DUEL_FAULTS]} == {name for name, _ in CHECKS} - {
        "measures"
    }


def test_other_checks_go_on_after_a_failed_one(registry: Registry) -> None:
    report = check_environment(FAULTY.name, {"fault": "not_json"}, registry=registry, num_steps=10)
    assert len(report.results) == len(CHECKS)
    assert {"results", "malformed_actions"} <= {failure.name for failure in report.failures}
    assert "json_schemas" not in {failure.name for failure in report.failures}


@pytest.mark.parametrize("fault", ["unseeded", "salted_hash", "global_random"])
def test_what_is_not_reproducible_is_not_called_deterministic(registry: Registry, fault: str) -> None:
    only = ["same_seed", "other_process"]
    report = check_environment(FAULTY.name, {"fault": fault}, registry=registry, only=only)
    assert report.deterministic is False


def test_a_plain_environment_is_checked_as_far_as_it_goes(registry: Registry) -> None:
    registry.register(EnvSpec("acme/echo-v0", "acme_envs.echo:EchoEnv"))
    report = check_environment("echo", {"delay_s": 0.0}, registry=registry)
    gymnasium.registry.pop("acme/echo-v0")
    assert report.passed
    skipped = {result.name for result in report.results if result.skipped}
    assert skipped == {"snapshots", "json_schemas", "spaces", "refusals", "truncation", "tool_messages"} | {
        "solutions",
        "junk",
        "costs",
        "seats",
    }
    assert all(result.detail for result in report.results)
    # It claims nothing about being deterministic; it is all the same.
    assert report.deterministic is True


def test_refused_arguments_are_a_finding() -> None:
    report = check_environment("frozen_lake", {"size": 0})
    assert [failure.name for failure in report.failures] == ["arguments"]


def test_an_unknown_name_raises() -> None:
    with pytest.raises(UnknownEnvNameError):
        check_environment("no_such_env")


def test_progress_is_told_before_each_check() -> None:
    seen: list[tuple[str, int, int]] = []
    only = ["spaces", "refusals"]
    check_environment("frozen_lake", only=only, progress=lambda *told: seen.append(told))
    assert seen == [("spaces", 1, 2), ("refusals", 2, 2)]


def test_an_installed_package_is_listed_made_and_checked(run_with_acme: Callable[[str], str]) -> None:
    code = """
import json, gymnasium, verl_agent_env
from verl_agent_env.envs.checker import check_environment
from verl_agent_env.envs.registry import default_registry
registry = default_registry()
made = gymnasium.make("acme/coin_flip-v0", num_flips=2)
kind = registry.kind("coin_flip")
built = kind.build(kind.validate({"num_flips": 2}))
first, rewards = [], []
for env in (made.unwrapped, built):
    first.append(env.reset(seed=5)[0])
    rewards.append([])
    while not env.ended:
        rewards[-1].append(env.step("heads")[1])
reports = {"coin_flip": check_environment("coin_flip"), "acme/echo-v0": check_environment("acme/echo-v0", only=["results"])}
print(json.dumps({
    "names": registry.names(), "first": first, "rewards": rewards, "description": kind.description,
    "execution": registry.kind("echo").execution,
    "failures": {name: [str(f) for f in report.failures] for name, report in reports.items()},
}))
"""
    said = json.loads(run_with_acme(code))
    ours = {spec.name for spec in BUILT_IN}
    others = {"acme/coin_flip-v0", "acme/echo-v0", "acme/launch-v0", "acme/loud_launch-v0"}
    assert set(said["names"]) == ours | others
    assert said["first"][0] == said["first"][1]
    assert said["rewards"][0] == said["rewards"][1]
    assert sum(said["rewards"][0]) == 2
    assert said["description"] == "Guess which side of a coin comes up."
    assert said["execution"] == "thread"
    assert said["failures"] == {"coin_flip": [], "acme/echo-v0": []}
