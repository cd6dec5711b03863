"""Code that was written for Gymnasium runs against a server unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import ClipReward, DictInfoToList, RecordEpisodeStatistics, TransformReward

import verl_agent_env  # noqa: F401 - registers the names
from tests import depth
from tests.conftest import ServerProcess
from verl_agent_env.client import ClientClosedError, EnvClient
from verl_agent_env.client.remote_env import RemoteEnv
from verl_agent_env.client.remote_vector_env import RemoteVectorEnv
from verl_agent_env.client.transport import Transport
from verl_agent_env.errors import (
    InvalidEnvArgumentsError,
    InvalidRequestError,
    SequenceConflictError,
    UnknownEnvNameError,
)

ROOM: dict[str, Any] = {"dim_room": [6, 6], "num_boxes": 1}
ROW: dict[str, Any] = {"desc": ["SFFG"], "is_slippery": False, "include_task_prompt": False}
"""Three steps to the right, and the episode is over."""


@pytest.mark.parametrize("env_name", ["sokoban", "frozen_lake", "countdown"])
@pytest.mark.filterwarnings("ignore:.*WARN.*:UserWarning")
def test_gymnasium_finds_no_fault(server: ServerProcess, env_name: str) -> None:
    env = gymnasium.make("verl_env/remote-v0", url=server.url, env_name=env_name)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_remote_environment_is_the_local_one(server: ServerProcess) -> None:
    local = gymnasium.make("verl_env/sokoban-v0", **ROOM)
    remote = gymnasium.make("verl_env/remote-v0", url=server.url, env_name="sokoban", **ROOM)
    assert remote.reset(seed=5) == local.reset(seed=5)
    local.action_space.seed(1)
    for _ in range(20):
        action = local.action_space.sample()
        result = local.step(action)
        assert remote.step(action) == result
        if result[2] or result[3]:
            assert remote.reset() == local.reset()
    remote.close()
    remote.close()
    local.close()


def test_render_mode_is_drawn_and_an_unknown_one_refused(server: ServerProcess) -> None:
    with EnvClient(server.url) as client:
        env = RemoteEnv(env_name="sokoban", client=client, render_mode="ansi", **ROOM)
        env.reset(seed=1)
        assert str(env.render()).startswith("#")
        assert "Sokoban" in env.task_prompt()
        env.close()
        # The client is its owner's.
        assert client.catalogue()
        with pytest.raises(ValueError, match="render_mode"):
            RemoteEnv(env_name="sokoban", client=client, render_mode="human")


def test_unknown_name_is_told_and_leaves_nothing(server: ServerProcess) -> None:
    with pytest.raises(UnknownEnvNameError):
        RemoteEnv(server.url, "nothing_like_it")
    with pytest.raises(UnknownEnvNameError):
        RemoteVectorEnv(server.url, "nothing_like_it", 3)


def test_action_space_samples_calls_that_the_server_takes(server: ServerProcess) -> None:
    env = RemoteEnv(server.url, "sokoban", **ROOM)
    env.reset(seed=1)
    env.action_space.seed(3)
    for _ in range(10):
        action = env.action_space.sample()
        assert env.action_space.contains(action)
        *_, info = env.step(action)
        assert info["action_is_valid"]
    assert "not a message" not in env.observation_space
    env.close()


# --- vectors ------------------------------------------------------------------------------------------------


def vector_of(server: ServerProcess, mode: AutoresetMode, num_envs: int = 3, **more: Any) -> RemoteVectorEnv:
    return RemoteVectorEnv(
        server.url, "frozen_lake", num_envs, autoreset_mode=mode, env_kwargs={**ROW, **more}
    )


def step_first(env: RemoteVectorEnv) -> tuple[Any, ...]:
    """The first environment goes right, the others stay where they are."""
    return env.step(["right", *["up"] * (env.num_envs - 1)])


def position(observation: Any) -> int:
    return str(observation[0]["content"]).replace("\t", "").splitlines()[-1].find("P")


def test_next_step_resets_in_the_step_after_the_end(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.NEXT_STEP)
    env.reset(seed=1)
    step_first(env)
    step_first(env)
    _, rewards, terminations, truncations, _ = step_first(env)
    assert rewards.tolist() == [1.0, 0.0, 0.0]
    assert terminations.tolist() == [True, False, False]
    assert not truncations.any()
    observations, rewards, terminations, _, infos = step_first(env)
    assert position(observations[0]) == 0
    assert (rewards.tolist(), terminations.tolist()) == ([0.0] * 3, [False] * 3)
    assert infos["_seed"].tolist() == [True, False, False]
    assert infos["_num_steps"].tolist() == [False, True, True]
    assert position(step_first(env)[0][0]) == 1
    env.close()


def test_same_step_resets_at_once_and_keeps_the_end(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.SAME_STEP)
    env.reset(seed=1)
    step_first(env)
    step_first(env)
    observations, rewards, terminations, _, infos = step_first(env)
    assert (rewards[0], terminations[0], position(observations[0])) == (1.0, True, 0)
    assert infos["_final_obs"].tolist() == [True, False, False]
    assert position(infos["final_obs"][0]) == 3
    assert infos["final_obs"][1] is None
    assert infos["final_info"]["success"].tolist() == [True, False, False]
    assert infos["final_info"]["_success"].tolist() == [True, False, False]
    assert infos["_seed"].tolist() == [True, False, False]
    assert position(step_first(env)[0][0]) == 1
    env.close()


def test_without_autoreset_the_masked_ones_are_reset_by_hand(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.DISABLED)
    env.reset(seed=1)
    for _ in range(3):
        ended = step_first(env)[2]
    with pytest.raises(ValueError, match="environment 0"):
        step_first(env)
    observations, infos = env.reset(options={"reset_mask": ended})
    assert position(observations[0]) == 0
    assert infos["_seed"].tolist() == [True, False, False]
    assert step_first(env)[4]["num_steps"].tolist() == [1, 4, 4]
    env.close()


@pytest.mark.parametrize(
    "options",
    [
        {"reset_mask": np.array([True])},
        {"reset_mask": np.zeros(3, dtype=np.bool_)},
        {"reset_mask": np.array([1, 0, 0])},
    ],
)
def test_mask_that_is_none_is_refused(server: ServerProcess, options: dict[str, Any]) -> None:
    env = vector_of(server, AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match=r"reset_mask"):
        env.reset(options=options)
    env.close()


def test_options_beside_the_mask_are_those_of_each_environment(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.DISABLED)
    mask = np.array([True, False, False])
    begun = env.reset(seed=3)[0]
    for options in ({"other": 1}, {"other": 1, "reset_mask": mask}):
        with pytest.raises(InvalidEnvArgumentsError, match="takes no options"):
            env.reset(seed=7, options=options)
    assert env.reset(seed=7, options={"reset_mask": mask})[0][1:] == begun[1:]
    env.close()


def test_vector_needs_an_environment(server: ServerProcess) -> None:
    with pytest.raises(ValueError, match="num_envs"):
        RemoteVectorEnv(server.url, "sokoban", 0)


def test_seeds_of_numpy_are_taken_and_others_refused_as_they_are_by_the_environment(
    server: ServerProcess,
) -> None:
    env, envs = RemoteEnv(server.url, "sokoban", **ROOM), RemoteVectorEnv(server.url, "sokoban", 2, **ROOM)
    seed: Any = np.int64(3)
    assert env.reset(seed=seed)[1]["seed"] == 3
    assert envs.reset(seed=seed)[1]["seed"].tolist() == [3, 4]
    for wrong in (3.0, "3", -1, 1 << 63):
        for reset in (env.reset, envs.reset):
            with pytest.raises(InvalidRequestError):
                reset(seed=wrong)  # type: ignore[arg-type]
    env.close()
    envs.close()


def test_pictures_are_those_of_the_local_environment(server: ServerProcess) -> None:
    for mode in ("ansi", "rgb_array", "svg"):
        local = gymnasium.make("verl_env/sokoban-v0", render_mode=mode, **ROOM)
        remote = gymnasium.make(
            "verl_env/remote-v0", url=server.url, env_name="sokoban", render_mode=mode, **ROOM
        )
        vector = gymnasium.make_vec(
            "verl_env/remote-v0", 2, url=server.url, env_name="sokoban", render_mode=mode, env_kwargs=ROOM
        )
        for env in (local, remote, vector):
            env.reset(seed=3)
        drawn, pictures = remote.render(), vector.render()
        assert np.array_equal(np.asarray(drawn), np.asarray(local.render()))
        assert pictures is not None
        assert len(pictures) == 2
        assert np.array_equal(np.asarray(pictures[0]), np.asarray(drawn))
        for env in (local, remote, vector):
            env.close()


def test_seeds_count_up_or_are_given(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.NEXT_STEP)
    assert env.reset(seed=7)[1]["seed"].tolist() == [7, 8, 9]
    assert env.reset(seed=[3, 1, 2])[1]["seed"].tolist() == [3, 1, 2]
    with pytest.raises(ValueError, match="2 seeds for 3"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="1 actions for 3"):
        env.step(["up"])
    env.close()


def test_vector_is_made_by_gymnasium_and_its_spaces_fit(server: ServerProcess) -> None:
    env = gymnasium.make_vec(
        "verl_env/remote-v0", num_envs=4, url=server.url, env_name="sokoban", env_kwargs=ROOM
    )
    assert isinstance(env.unwrapped, RemoteVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, _ = env.reset(seed=1)
    assert env.observation_space.contains(observations)
    actions = env.action_space.sample()
    assert env.action_space.contains(actions)
    observations, *_ = env.step(actions)
    assert env.observation_space.contains(observations)
    env.close()


def test_vector_is_the_same_as_its_environments_alone(server: ServerProcess) -> None:
    vector = RemoteVectorEnv(server.url, "sokoban", 3, env_kwargs=ROOM)
    alone = [gymnasium.make("verl_env/sokoban-v0", **ROOM) for _ in range(3)]
    observations, _ = vector.reset(seed=5)
    assert list(observations) == [env.reset(seed=5 + n)[0] for n, env in enumerate(alone)]
    vector.action_space.seed(2)
    for _ in range(5):
        actions = vector.action_space.sample()
        observations, rewards, *_ = vector.step(actions)
        expected = [env.step(action) for env, action in zip(alone, actions, strict=True)]
        assert list(observations) == [result[0] for result in expected]
        assert rewards.tolist() == [result[1] for result in expected]
    vector.close()


def test_error_of_an_environment_is_raised(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.NEXT_STEP, max_steps=1)
    env.reset(seed=1)
    # Somebody else takes the only step.
    with EnvClient(server.url) as other:
        other.attach(env.env_ids[1]).step("right")
    with pytest.raises(SequenceConflictError) as caught:
        env.step(["up"] * 3)
    assert caught.value.env_id == env.env_ids[1]
    env.close()


@pytest.fixture
def two_vectors(server: ServerProcess) -> Iterator[list[VectorEnv[Any, Any, Any]]]:
    """A vector in this process and one of the same environments on a server, both begun."""
    there: dict[str, Any] = {"url": server.url, "env_name": "frozen_lake", "env_kwargs": ROW}
    vectors = [
        gymnasium.make_vec("verl_env/frozen_lake-v1", 2, "sync", render_mode="ansi", **ROW),
        gymnasium.make_vec("verl_env/remote-v0", 2, render_mode="ansi", **there),
    ]
    for vector in vectors:
        vector.reset(seed=1)
    yield vectors
    for vector in vectors:
        vector.close()


def test_attributes_and_calls_are_those_of_a_vector_in_process(two_vectors: list[Any]) -> None:
    local, remote = two_vectors
    for name in ("task_prompt", "render", "render_mode", "observation_space"):
        assert remote.get_attr(name) == remote.call(name) == local.get_attr(name) == local.call(name)
    assert [type(space) for space in remote.get_attr("action_space")] == [
        type(remote.single_action_space)
    ] * 2
    for vector in two_vectors:
        for name in ("nothing_like_it", "_client", "__class__.x"):
            with pytest.raises(AttributeError, match=name):
                vector.get_attr(name)
        with pytest.raises(TypeError):
            vector.call("step")
        # Each takes the same action; the third one ends the episodes.
        for _ in range(3):
            stepped = vector.call("step", "right")
        assert [result[1:3] for result in stepped] == [(1.0, True)] * 2
    assert remote.call("reset", seed=5) == local.call("reset", seed=5)
    assert remote.step(["right"] * 2)[0] == tuple(local.step(["right"] * 2)[0])


def test_calls_are_those_of_the_environments_of_the_client(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.NEXT_STEP)
    assert env.get_attr("env_id") == tuple(env.env_ids)
    assert [state["env_id"] for state in env.call("state")] == env.env_ids
    assert env.call("tools", "anthropic")[0] == env.call("tools", format="anthropic")[2]
    assert env.get_attr("seq") == (0, 0, 0)
    for _ in range(3):
        env.call("step", "right")
    # The vector knows that the episodes ended.
    assert not env.step(["right"] * 3)[2].any()
    assert env.get_attr("seq") == (0, 0, 0)
    for name in ("__init__", "remote"):
        with pytest.raises(AttributeError, match=name):
            env.get_attr(name)
    env.close()
    with pytest.raises(ClientClosedError):
        env.call("state")


def test_steps_of_a_call_share_a_request(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []
    send = Transport.send

    async def counted(self: Transport, method: str, path: str, *rest: Any, **more: Any) -> bytes:
        paths.append(path)
        return await send(self, method, path, *rest, **more)

    monkeypatch.setattr(Transport, "send", counted)
    with EnvClient(server.url, micro_batching=False, direct="never") as client:
        env = RemoteVectorEnv(env_name="frozen_lake", num_envs=3, client=client, env_kwargs=ROW)
        for name, action in (("step", ["right"]), ("reset", []), ("close", [])):
            paths.clear()
            env.call(name, *action)
            assert paths == [f"/api/batch/{name}"]


def test_attributes_on_a_server_are_not_set(server: ServerProcess) -> None:
    env = vector_of(server, AutoresetMode.NEXT_STEP)
    for name in ("render_mode", "is_slippery", "env_id"):
        with pytest.raises(AttributeError, match="env_kwargs"):
            env.set_attr(name, [1, 2, 3])
    assert env.get_attr("render_mode") == (None,) * 3
    assert env.get_attr("env_id") == tuple(env.env_ids)
    env.close()


def test_error_of_one_environment_of_a_call_is_raised_and_the_others_are_called(
    server: ServerProcess,
) -> None:
    env = vector_of(server, AutoresetMode.NEXT_STEP)
    env.reset(seed=1)
    with EnvClient(server.url) as other:
        other.attach(env.env_ids[1]).step("up")
    with pytest.raises(SequenceConflictError) as caught:
        env.call("step", "right")
    assert caught.value.env_id == env.env_ids[1]
    assert env.get_attr("seq")[::2] == (1, 1)
    env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_wrappers_of_gymnasium_count_episodes_and_change_rewards(
    server: ServerProcess, mode: AutoresetMode
) -> None:
    vector = vector_of(server, mode)
    counted: RecordEpisodeStatistics[Any, Any] = RecordEpisodeStatistics(vector)
    env = DictInfoToList(ClipReward(TransformReward(counted, lambda rewards: rewards * 4), 0.0, 3.0))
    env.reset(seed=1)
    for _ in range(3):
        _, rewards, _, _, infos = env.step(["right", "up", "up"])
    assert rewards.tolist() == [3.0, 0.0, 0.0]
    assert counted.episode_count == 1
    assert [*counted.return_queue, *counted.length_queue] == [1.0, 3]
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (1.0, 3)
    assert "episode" not in infos[1]
    assert env.unwrapped is vector
    env.close()


def test_many_environments_are_stepped_together(server: ServerProcess) -> None:
    number = depth.examples(1000, at_most=10_000)
    env = vector_of(server, AutoresetMode.SAME_STEP, number)
    env.reset(seed=0)
    _, _, _, _, infos = env.step(["right"] * number)
    assert infos["num_steps"].tolist() == [1] * number
    assert len(set(env.env_ids)) == number
    env.close()
