"""One script of Gymnasium's, run in process, by the interface, over HTTP, by the client, and in both kinds of vectors: the same episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium
import httpx
import pytest

import verl_agent_env.interface as interface
from tests.conftest import ServerProcess
from tests.waiting import HANG_S
from verl_agent_env.client import EnvClient

LAKE: dict[str, Any] = {"size": 4, "is_slippery": True, "include_task_prompt": False}
FIRST = 3
OTHER = 11
SCRIPT: list[int | str | None] = [
    *(FIRST, None, None, "right", None, "down", "right", None, None),
    *(OTHER, OTHER, "down", OTHER, None, "right", None),
]
"""Resets with a seed, resets without, and actions."""

Seen = tuple[Any, ...]


class Played(NamedTuple):
    """How an environment is reset and stepped."""

    reset: Callable[[int | None], Seen]
    step: Callable[[str], Seen]


def run(played: Played) -> list[Seen]:
    return [played.step(line) if isinstance(line, str) else played.reset(line) for line in SCRIPT]


def of_gymnasium(env: gymnasium.Env[Any, Any]) -> Played:
    return Played(lambda seed: env.reset(seed=seed), lambda action: env.step(action))


@contextmanager
def local(_: str) -> Iterator[Played]:
    env = gymnasium.make("verl_env/frozen_lake-v1", **LAKE)
    yield of_gymnasium(env)
    env.close()


@contextmanager
def by_interface(_: str) -> Iterator[Played]:
    env_id = interface.initialize_environment("frozen_lake", seed=FIRST, env_kwargs=LAKE)
    yield Played(lambda seed: interface.reset(env_id, seed), lambda action: interface.step(env_id, action))
    interface.close_environment(env_id)


@contextmanager
def over_http(url: str) -> Iterator[Played]:
    with httpx.Client(base_url=f"{url}/api/environment", timeout=HANG_S) as client:

        def call(path: str, body: dict[str, Any], *names: str) -> Seen:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return tuple(answer.json()[name] for name in names)

        begun = {"env_name": "frozen_lake", "seed": FIRST, "env_kwargs": LAKE}
        (env_id,) = call("/initialize", begun, "env_id")
        yield Played(
            lambda seed: call(f"/{env_id}/reset", {"seed": seed}, "observation", "info"),
            lambda action: call(
                f"/{env_id}/step",
                {"action": action},
                "observation",
                "reward",
                "terminated",
                "truncated",
                "info",
            ),
        )
        call(f"/{env_id}/close", {}, "message")


@contextmanager
def by_the_client(url: str) -> Iterator[Played]:
    with EnvClient(url) as client, client.make("frozen_lake", seed=FIRST, **LAKE) as env:
        yield Played(lambda seed: tuple(env.reset(seed=seed)), lambda action: tuple(env.step(action)))


@contextmanager
def remote(url: str) -> Iterator[Played]:
    env = gymnasium.make("verl_env/remote-v0", url=url, env_name="frozen_lake", **LAKE)
    yield of_gymnasium(env)
    env.close()


DOORS = {
    "interface": by_interface,
    "HTTP": over_http,
    "client": by_the_client,
    "remote": remote,
}


@pytest.fixture(scope="module")
def expected() -> list[Seen]:
    with local("") as played:
        return run(played)


def test_the_script_sees_a_new_episode_at_each_reset_without_a_seed(expected: list[Seen]) -> None:
    seeds = [
        seen[1]["seed"] for seen, line in zip(expected, SCRIPT, strict=True) if not isinstance(line, str)
    ]
    resets = [line for line in SCRIPT if not isinstance(line, str)]
    assert [seed for seed, line in zip(seeds, resets, strict=True) if line is not None] == [
        FIRST,
        OTHER,
        OTHER,
        OTHER,
    ]
    assert len(set(seeds)) == len(seeds) - 2


@pytest.mark.parametrize("door", DOORS)
def test_a_door_shows_the_same_episodes(server: ServerProcess, expected: list[Seen], door: str) -> None:
    with DOORS[door](server.url) as played:
        assert run(played) == expected


@pytest.mark.parametrize("door", ["interface", "HTTP", "client"])
def test_the_first_reset_begins_the_episode_that_the_environment_was_made_with(
    server: ServerProcess, expected: list[Seen], door: str
) -> None:
    with DOORS[door](server.url) as played:
        assert [played.reset(None) for _ in range(3)] == expected[:3]


def test_vectors_show_the_same_episodes_here_and_on_a_server(server: ServerProcess) -> None:
    lines = [line for line in SCRIPT if line is None or isinstance(line, int)]

    def observed(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> list[Any]:
        seen: list[Any] = []
        for line in [*lines, "right", None, None]:
            if isinstance(line, str):
                observations, rewards, *_ = envs.step((line,) * envs.num_envs)
                seen.append((list(observations), list(rewards)))
            else:
                observations, infos = envs.reset(seed=line)
                seen.append((list(observations), list(infos["seed"])))
        envs.close()
        return seen

    here = gymnasium.make_vec("verl_env/frozen_lake-v1", num_envs=3, vectorization_mode="sync", **LAKE)
    there = gymnasium.make_vec(
        "verl_env/remote-v0", num_envs=3, url=server.url, env_name="frozen_lake", env_kwargs=LAKE
    )
    assert observed(there) == observed(here)
