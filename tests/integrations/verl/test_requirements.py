"""Versions of verl, options and rows: what fits, and what is said of what does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from verl_agent_env.integrations.errors import TrainingSetupError, VerlVersionError
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.integrations.verl.requirements import check_version

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("version", ["0.9.1", "0.9.2", "0.9.12.post1"])
def test_versions_that_fit_are_taken(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.8.0", "0.9.0", "0.9", "0.10.0", "1.0.0", "nightly"])
def test_other_versions_are_named_with_what_to_install(version: str) -> None:
    with pytest.raises(VerlVersionError, match="pip install") as caught:
        check_version(version)
    assert version in str(caught.value)


def test_later_options_win() -> None:
    options = RolloutOptions.from_mapping({"url": "http://a", "max_turns": 3}, None, {"max_turns": 4})
    assert (options.url, options.max_turns) == ("http://a", 4)


@pytest.mark.parametrize(
    "options",
    [
        {"max_turns": 0},
        {"max_tokens_per_turn": 0},
        {"min_tokens_per_turn": 0},
        {"max_attempts": 0},
        {"action_format": "morse"},
        {"direct": "always"},
        {"cluster": "slurm"},
        {"nodes": 0},
        {"workers_per_node": 0},
        {"colour": "red"},
    ],
)
def test_options_without_sense_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(TrainingSetupError, match=next(iter(options))):
        RolloutOptions.from_mapping(options)


def test_every_option_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "verl.md").read_text("utf-8")
    for field in dataclasses.fields(RolloutOptions):
        assert f"| `{field.name}` |" in page, field.name


def test_a_row_may_hold_objects_in_place_of_json() -> None:
    plain = {"env_name": "countdown", "env_kwargs": {"target": 3}, "tools": [], "seed": 4}
    written = {"env_name": "countdown", "env_kwargs": '{"target": 3}', "tools": "[]", "seed": 4}
    assert EpisodeSpec.from_row({"extra_info": plain}) == EpisodeSpec.from_row({"extra_info": written})


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"extra_info": None},
        {"extra_info": {"env_name": 3}},
        {"extra_info": {"env_name": "x", "env_kwargs": "{"}},
        {"extra_info": {"env_name": "x", "env_kwargs": "[1]"}},
        {"extra_info": {"env_name": "x", "tools": '{"a": 1}'}},
    ],
)
def test_rows_that_stand_for_no_episode_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(TrainingSetupError, match="curate"):
        EpisodeSpec.from_row(row)
