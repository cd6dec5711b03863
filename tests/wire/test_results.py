"""Results of steps and resets as they travel."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest

from verl_agent_env.wire.results import EncodedReset, EncodedStep

OBSERVATION = [{"role": "user", "content": 'ä\n"quoted"'}]


def test_encoded_step_is_what_the_environment_gave() -> None:
    encoded = EncodedStep.of((OBSERVATION, np.float32(0.5), np.bool_(True), 0, {"num_steps": np.int64(3)}))
    assert orjson.loads(encoded.to_json()) == {
        "observation": OBSERVATION,
        "reward": 0.5,
        "done": True,
        "terminated": True,
        "truncated": False,
        "info": {"num_steps": 3},
    }


@pytest.mark.parametrize(("terminated", "truncated"), [(False, True), (False, False)])
def test_done_is_terminated_alone(terminated: bool, truncated: bool) -> None:
    body = orjson.loads(EncodedStep.of(([], 1, terminated, truncated, {})).to_json())
    assert (body["done"], body["terminated"], body["truncated"]) == (terminated, terminated, truncated)


@pytest.mark.parametrize("reward", [0.1, -0.0, 1e300, 5e-324, 10.9, 1 / 3])
def test_reward_stays_exact(reward: float) -> None:
    sent = orjson.loads(EncodedStep.of(([], reward, False, False, {})).to_json())["reward"]
    assert (sent, math.copysign(1, sent)) == (reward, math.copysign(1, reward))


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_reward_must_be_finite(reward: float) -> None:
    with pytest.raises(ValueError, match="reward"):
        EncodedStep.of(([], reward, False, False, {}))


def test_encoded_reset_is_what_the_environment_gave() -> None:
    encoded = EncodedReset.of(OBSERVATION, {"seed": 3})
    assert orjson.loads(encoded.to_json()) == {"observation": OBSERVATION, "info": {"seed": 3}}
