"""Former names of what any trainer can use of a rollout."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("verl", reason="verl is not installed: make verl-test")


@pytest.mark.parametrize(
    ("module", "name"),
    [("episode", "Episode"), ("preflight", "check_server"), ("template_messages", "for_template")],
)
def test_a_former_module_gives_the_same_thing_and_warns(module: str, name: str) -> None:
    former = importlib.import_module(f"verl_agent_env.integrations.verl.rollout.{module}")
    present = f"verl_agent_env.integrations.rollout.{module}"
    with pytest.warns(DeprecationWarning, match=present):
        found = getattr(former, name)
    assert found is getattr(importlib.import_module(present), name)
