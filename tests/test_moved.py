"""Former names of modules."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from verl_agent_env.moved import renamed_argument
from verl_agent_env.server import create_app
from verl_agent_env.server.cluster.identity import WorkerIdentity


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


def test_the_application_takes_a_worker_s_identity_under_its_former_name() -> None:
    identity = WorkerIdentity("10.0.0.1:9000", ("10.0.0.1:9000",), supervisor="a" * 32)
    former: dict[str, Any] = {"place": identity}
    with pytest.warns(DeprecationWarning, match="identity"):
        app = create_app(**former)
    assert app.env_host.name == create_app(identity=identity).env_host.name == "10.0.0.1:9000"


async def test_a_former_argument_does_the_same_and_warns() -> None:
    @renamed_argument("gathered", "micro_batching")
    async def step(action: str, *, micro_batching: bool | None = None) -> tuple[str, bool | None]:
        return action, micro_batching

    former: dict[str, Any] = {"gathered": False}
    with pytest.warns(DeprecationWarning, match="micro_batching"):
        assert await step("left", **former) == ("left", False)
    assert await step("left", micro_batching=True) == ("left", True)
