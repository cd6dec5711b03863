"""Rows of any trainer's data set."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.row import EpisodeSpec


def test_columns_and_extra_info_define_the_same_episode() -> None:
    columns = {"env_name": "countdown", "seed": 4, "env_kwargs": '{"target": 3}'}
    spec = EpisodeSpec.from_columns(columns)
    assert (spec.env_name, spec.seed, spec.env_kwargs) == ("countdown", 4, {"target": 3})
    assert EpisodeSpec.from_columns({"seed": 9, "extra_info": columns}) == spec
    assert EpisodeSpec.from_row({"extra_info": columns}) == spec


def test_a_row_without_a_name_is_of_the_given_environment_and_has_its_arguments() -> None:
    spec = EpisodeSpec.from_columns({"index": 7, "env_kwargs": {"a": 2}}, "countdown", {"a": 1, "b": 1})
    assert (spec.env_name, spec.seed, spec.env_kwargs) == ("countdown", 7, {"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"seed": 1}, "env_name"),
        ({"env_name": "countdown"}, "seed"),
        ({"env_name": "countdown", "seed": None}, "seed"),
        ({"env_name": "countdown", "seed": "one"}, "seed"),
        ({"env_name": "countdown", "seed": [1]}, "seed"),
        ({"env_name": "countdown", "seed": 1, "env_kwargs": "{"}, "env_kwargs"),
        ({"env_name": "countdown", "seed": 1, "env_kwargs": [1]}, "env_kwargs"),
    ],
)
def test_rows_that_define_no_episode_are_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingSetupError, match=said):
        EpisodeSpec.from_columns(row)
