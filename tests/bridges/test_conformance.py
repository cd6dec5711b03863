"""The same seed and actions are the same episode through every bridge, as through every wire."""

from __future__ import annotations

import pytest

from tests.bridges.doors import BRIDGES
from tests.conftest import ServerProcess
from tests.server.wires.test_conformance import KINDS, reference


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
