"""What callers hand in is read, or refused by a typed error before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pytest

from verl_agent_env.client import AsyncEnvClient, EnvClient
from verl_agent_env.client.encoding import encode_value, seed_of
from verl_agent_env.errors import EnvironmentNotFoundError, InvalidRequestError


class Dumped:
    """An object of an SDK."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def model_dump(self) -> dict[str, Any]:
        return {"role": "assistant", "content": self.content}


@dataclass
class Said:
    """An object of somebody's own."""

    content: Any


def deep(layers: int, innermost: Any = "x") -> Any:
    value = innermost
    for _ in range(layers):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("up", "up"),
        ("half \ud800 pair", "half ? pair"),
        ({"role": "assistant", "content": "\udfff", "n\ud800": [("\ud800",)]}, {"role": "assistant", "content": "?", "n?": [["?"]]}),
        ({"content": None}, {"content": None}),
        ({"x": np.int64(3), "y": np.float32(0.5), "z": np.bool_(True)}, {"x": 3, "y": 0.5, "z": True}),
        ({"room": np.array([[6, 6]])}, {"room": [[6, 6]]}),
        (Dumped("\ud800"), {"role": "assistant", "content": "?"}),
        ([Dumped(np.int64(3))], [{"role": "assistant", "content": 3}]),
        (b"bytes", "Ynl0ZXM="),
        (Said("\ud800"), {"content": "?"}),
        ({"room": np.arange(6).reshape(2, 3).T}, {"room": [[0, 3], [1, 4], [2, 5]]}),
        ([np.arange(6)[::2], np.array(3), np.array([1], dtype=">i4")], [[0, 2, 4], 3, [1]]),
        (np.array(["up", "n\ud800"]), ["up", "n?"]),
        (np.array([1, None, Said(np.int64(2))], dtype=object), [1, None, {"content": 2}]),
    ],
)  # fmt: skip
def test_what_can_be_expressed_is_sent(value: Any, read: Any) -> None:
    assert orjson.loads(encode_value(value, "action")) == read


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"content": None, "x": [1.0, float("inf")]},
        {"x": np.float64("nan")},
        {"x": np.array([1.0, np.nan])},
        Dumped(float("nan")),
        Said(float("nan")),
        [None, Said({"x": float("-inf")})],
        np.array([None, float("nan")], dtype=object),
        deep(240, float("nan")),
        object(),
        {"x": {1, 2}},
        {"x": 1 << 70},
        deep(500),
    ],
)
def test_what_cannot_is_refused_and_named(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        encode_value(value, "action")
    assert caught.value.errors[0]["loc"] == ["action"]


def test_a_key_that_is_no_text_is_named_as_what_it_is() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        encode_value({(1, 2): "up"}, "action")
    assert "nested" not in caught.value.errors[0]["msg"]


@pytest.mark.parametrize(("seed", "read"), [(None, None), (3, 3), (np.int64(4), 4), (np.uint8(5), 5)])
def test_seeds_of_numpy_are_seeds(seed: Any, read: int | None) -> None:
    assert seed_of(seed) == read


@pytest.mark.parametrize("seed", ["3", 3.0, [3], -1, 1 << 63, 1 << 64])
def test_a_seed_that_is_no_integer_is_refused(seed: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        seed_of(seed)
    assert caught.value.errors[0]["loc"] == ["seed"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("env_name", "sok\ud800ban"), ("env_name", 5), ("run_id", "\udfff"), ("run_id", b"run")),
        *(("ttl_s", float("nan")), ("ttl_s", float("inf")), ("ttl_s", "5")),
    ],
)
def test_names_and_times_that_cannot_be_sent_are_refused_and_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        AsyncEnvClient("http://host").make(**{"env_name": "frozen_lake", name: value})
    assert caught.value.errors[0]["loc"] == [name]


@pytest.mark.parametrize("env_id", ["", "../server", "000-1?x=1", "ü", "\ud800", "a b", 5, None])
async def test_an_id_that_none_can_have_is_not_found(env_id: Any) -> None:
    with pytest.raises(EnvironmentNotFoundError):
        await AsyncEnvClient("http://host").attach(env_id)


def test_a_seed_that_is_none_fails_alone(sync_client: EnvClient) -> None:
    seeds: list[Any] = [1, 1 << 64, "3", 2]
    made = sync_client.make_many("frozen_lake", seeds)
    assert [isinstance(env, InvalidRequestError) for env in made] == [False, True, True, False]


async def test_what_is_refused_is_refused_before_the_environment_is_made(client: AsyncEnvClient) -> None:
    env = client.make("frozen_lake")
    with pytest.raises(InvalidRequestError):
        await env.reset(seed="3")  # type: ignore[arg-type]
    assert not env.env_id


async def test_a_refused_action_leaves_the_environment_as_it_is(client: AsyncEnvClient) -> None:
    async with client.make("frozen_lake", seed=np.int64(3), size=np.int64(4), is_slippery=False) as env:  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError):
            await env.step({"role": "assistant", "content": float("nan")})
        assert (await env.step("<action>down</action> \ud800")).info["num_steps"] == 1
        with pytest.raises(InvalidRequestError):
            await env.reset(seed="3")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError):
            await env.reset(options={"x": object()})
        assert (await env.state())["seq"] == 1
