"""The same seed and actions are the same episode through every bridge, as through every wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bridges.doors import BRIDGES, as_text
from tests.bridges.vf_eval import plugin_arguments, text_in, traces_of, user_texts, vf_eval
from tests.conftest import ServerProcess
from tests.examples.model_server import serving_model
from tests.server.api.wires.test_conformance import KINDS, random_episode, reference

ENDING: dict[str, dict[str, Any]] = {
    "verl_env/frozen_lake-v1": {"max_steps": 6},
    "verl_env/sokoban-v0": {"max_steps": 6},
    "verl_env/countdown-v0": {"max_steps": 6},
}
"""Arguments with which every episode of the reference comes to its end."""


@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize("env_name", KINDS)
def test_every_bridge_shows_the_same_episode(server: ServerProcess, env_name: str, bridge: str) -> None:
    door = BRIDGES[bridge](server.url)
    try:
        for seed, actions, expected in reference(env_name):
            seen = [door.begin(env_name, seed, KINDS[env_name])]
            seen += [door.step(action) for action in actions]
            # A bridge may know a reward as the difference of two sums only.
            assert [one.reward for one in seen] == pytest.approx([one.reward for one in expected])
            assert [one._replace(reward=None) for one in seen] == [
                one._replace(reward=None) for one in expected
            ]
    finally:
        getattr(door, "close", lambda: None)()


@pytest.mark.parametrize("env_name", KINDS)
def test_vf_eval_shows_the_same_episodes(server: ServerProcess, tmp_path: Path, env_name: str) -> None:
    """Of verifiers one sees whole episodes only, so they are compared as such."""
    pytest.importorskip("verifiers.v1", reason="make bridges-test installs verifiers")
    env_kwargs = {**KINDS[env_name], **ENDING.get(env_name, {})}
    played = [random_episode(env_name, env_kwargs, seed, ("sideways",)) for seed in range(3)]
    # Episodes that begin alike are given the same actions.
    by_opening = {seen[0].text: (actions, seen) for actions, seen in played}

    def answers() -> Iterator[dict[str, Any]]:
        while True:
            messages = model.requests[-1][1]["messages"]
            users = [text_in(one["content"]) for one in messages if one["role"] == "user"]
            actions, _ = by_opening[users[0]]
            yield {"role": "assistant", "content": as_text(actions[len(users) - 1])}

    with serving_model(answers()) as model:
        arguments = plugin_arguments(server.url, env_name, env_kwargs, tasks=3, rollouts=2)
        traces = traces_of(vf_eval(model, tmp_path, *arguments))
    assert len(traces) == 6
    for trace in traces:
        texts = user_texts(trace)
        assert texts[0] == played[trace["task"]["data"]["seed"]][1][0].text
        _, seen = by_opening[texts[0]]
        # The last observation is of an episode that is over, and is not shown to the model.
        assert texts == [one.text for one in seen[:-1]]
        rewards = [one.reward for one in seen if one.reward is not None]
        assert trace["rewards"]["env_reward"]["score"] == pytest.approx(sum(rewards))
        assert trace["metrics"]["success"] == float(bool(seen[-1].success))
