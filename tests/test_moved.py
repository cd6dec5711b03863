"""Former names of modules."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from verl_agent_env.moved import renamed_argument


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("verl_agent_env.integrations.verl.curation", "curate", "verl_agent_env.integrations.datasets"),
        ("verl_agent_env.integrations.verl.errors", "CurationError", "verl_agent_env.integrations.errors"),
        ("verl_agent_env.integrations.verl.row", "EpisodeSpec", "verl_agent_env.integrations.rollout.row"),
        (
            "verl_agent_env.integrations.verl.options",
            "RolloutOptions",
            "verl_agent_env.integrations.rollout.options",
        ),
    ],
)
def test_a_former_name_gives_the_same_thing_and_warns(old: str, name: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=new):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)
    with pytest.raises(AttributeError), pytest.warns(DeprecationWarning, match=new):
        _ = importlib.import_module(old).no_such_name


@pytest.mark.parametrize(
    ("module", "former", "present"),
    [
        ("verl_agent_env.client", "Beginning", "ResetResult"),
        ("verl_agent_env.client", "Played", "PlayedEpisode"),
        ("verl_agent_env.evaluation", "Episode", "EvaluatedEpisode"),
        ("verl_agent_env.evaluation", "Plan", "EvaluationPlan"),
    ],
)
def test_a_former_name_in_a_module_gives_the_same_class_and_warns(
    module: str, former: str, present: str
) -> None:
    imported = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=present):
        found = getattr(imported, former)
    assert found is getattr(imported, present)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = imported.no_such_name


async def test_a_former_argument_does_the_same_and_warns() -> None:
    @renamed_argument("gathered", "micro_batching")
    async def step(action: str, *, micro_batching: bool | None = None) -> tuple[str, bool | None]:
        return action, micro_batching

    former: dict[str, Any] = {"gathered": False}
    with pytest.warns(DeprecationWarning, match="micro_batching"):
        assert await step("left", **former) == ("left", False)
    assert await step("left", micro_batching=True) == ("left", True)
