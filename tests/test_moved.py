"""Former names of modules."""

from __future__ import annotations

import importlib

import pytest


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
