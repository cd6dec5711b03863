"""The class for TRL's ``environment_factory``, called as TRL calls it."""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ServerProcess, StartServer
from tests.pool_process import LASTING
from tests.waiting import HANG_S
from verl_agent_env.client import EnvClient, ServerUnreachableError
from verl_agent_env.errors import InvalidEnvArgumentsError, UnknownEnvNameError, VerlAgentEnvError
from verl_agent_env.integrations.errors import EpisodeFailedError, TrainingSetupError
from verl_agent_env.integrations.rollout.clients import close_process_clients
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.trl import environment

LAKE: dict[str, Any] = {"desc": ["SFG"], "is_slippery": False, "include_task_prompt": False}
DEADLINE_S = 8.0
"""Of calls on a server that is gone; long enough for one that is there, however busy the machine."""
OVER = "The episode is over."


@pytest.fixture(autouse=True)
def _clients() -> Iterator[None]:
    yield
    close_process_clients()


def tools_of(cls: type) -> list[str]:
    """The public methods of an instance's class, as TRL lists them."""
    found = [name for name, _ in inspect.getmembers(cls, predicate=inspect.isfunction)]
    return [name for name in found if not name.startswith("_") and name not in ("reset", "get_reward")]


def waited_by(instance: Any) -> float:
    """Seconds that an instance has waited for the server in its episode."""
    return float(instance._episode._episode.waited_s)


def test_an_episode_by_methods(server: ServerProcess) -> None:
    lake: Any = environment("frozen_lake", url=server.url, **LAKE)
    assert lake.__name__ == "FrozenLake"
    assert tools_of(lake) == ["move_down", "move_left", "move_right", "move_up"]
    assert lake.move_left.__doc__
    played = lake()
    assert played.get_reward() == 0.0
    assert played.move_right() == OVER
    assert played.reset(prompt=[], seed=3) == "P\tF\tG"
    assert (played.move_right(), played.get_reward()) == ("F\tP\tG", 0.0)
    assert (played.move_right(), played.get_reward()) == ("F\tF\tP", 1.0)
    assert (played.move_right(), played.get_reward()) == (OVER, 1.0)
    assert played.reset(prompt=[], seed=3) == "P\tF\tG"
    assert played.get_reward() == 0.0


def test_equal_seeds_are_equal_episodes_and_other_seeds_others(server: ServerProcess) -> None:
    lake = environment("frozen_lake", url=server.url, size=6)
    group = [lake().reset(seed=4) for _ in range(8)]
    assert len(set(group)) == 1
    assert lake().reset(seed=5) != group[0]


def test_rows_have_arguments_of_their_own(server: ServerProcess) -> None:
    played = environment("frozen_lake", url=server.url, **LAKE)()
    assert played.reset(seed=1, env_kwargs={"desc": ["SFFG"]}) == "P\tF\tF\tG"
    assert played.reset(seed=1, env_kwargs='{"desc": ["SFFFG"]}') == "P\tF\tF\tF\tG"
    curated = {"env_name": "verl_env/frozen_lake-v1", "seed": 1, "env_kwargs": '{"desc": ["SG"]}'}
    assert played.reset(prompt=[], extra_info=curated) == "P\tG"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": []},
        {"seed": "one"},
        {"seed": 1, "env_kwargs": "{"},
        {"seed": 1, "env_name": "sokoban"},
        {"extra_info": {"env_name": "sokoban", "seed": 1}},
    ],
)
def test_a_row_that_is_no_episode_of_it_is_refused(server: ServerProcess, row: dict[str, Any]) -> None:
    with pytest.raises(TrainingSetupError):
        environment("frozen_lake", url=server.url, **LAKE)().reset(**row)


def test_an_environment_without_tools_has_one_for_its_answer(server: ServerProcess) -> None:
    chat = environment(
        "single_turn_chat",
        url=server.url,
        task_prompt="2 + 2?",
        scorer={"type": "exact_match", "answer": "4"},
    )
    assert tools_of(chat) == ["answer"]
    played = chat()
    played.reset(seed=1)
    played.answer(text="4")
    assert played.get_reward() == 1.0
    played.reset(seed=1)
    played.answer(tetx="4")
    assert played.get_reward() == 0.0


def test_whatever_a_model_calls_with_is_answered(server: ServerProcess) -> None:
    played = environment("countdown", url=server.url)()
    played.reset(seed=1)
    [name] = tools_of(type(played))
    for arguments in (
        {},
        {"no": 1},
        {"equation": 10**40},
        {"equation": "\ud800"},
        {"equation": [float("nan")]},
    ):
        assert isinstance(getattr(played, name)(**arguments), str)
    assert isinstance(played.get_reward(), float)


def test_pictures_are_parts(server: ServerProcess) -> None:
    played = environment("frozen_lake", url=server.url, observation_mode="image")()
    kinds = {part["type"] for part in played.reset(seed=1)}
    assert "image" in kinds


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("frozen_lak", {}, UnknownEnvNameError),
        ("frozen_lake", {"no_such": 1}, InvalidEnvArgumentsError),
    ],
)
def test_what_the_server_does_not_make_is_said_at_once(
    server: ServerProcess, name: str, arguments: dict[str, Any], error: type[VerlAgentEnvError]
) -> None:
    with pytest.raises(error):
        environment(name, url=server.url, **arguments)


def test_no_server_is_said_at_once(start_server: StartServer) -> None:
    away = start_server()
    away.stop()
    with pytest.raises(ServerUnreachableError):
        environment("frozen_lake", url=away.url, deadline_s=0.5)


def test_the_class_is_the_same_after_pickling(server: ServerProcess) -> None:
    lake = environment("frozen_lake", url=server.url, **LAKE)
    assert pickle.loads(pickle.dumps(lake)) is lake  # noqa: S301
    assert environment("frozen_lake", url=server.url, **LAKE) is not lake


def _play(lake: Any, results: Any) -> None:
    played = lake()
    results.put([played.reset(seed=3), played.move_right(), tools_of(lake)])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_the_class_plays_in_another_process_and_its_run_is_closed_from_here(
    server: ServerProcess, method: str
) -> None:
    with environment("frozen_lake", url=server.url, **LAKE) as lake:
        here = lake()
        here.reset(seed=3)
        context: Any = multiprocessing.get_context(method)
        results = context.Queue()
        process = context.Process(target=_play, args=(lake, results))
        process.start()
        assert results.get(timeout=120) == ["P\tF\tG", "F\tP\tG", tools_of(lake)]
        process.join(timeout=120)
        run_id = lake.definition.run_id
    with EnvClient(server.url) as client:
        assert client.close_run(run_id) == 0


def test_the_end_of_with_closes_all_environments_and_that_of_an_episode_its_own(
    server: ServerProcess,
) -> None:
    with environment("frozen_lake", url=server.url, **LAKE) as lake:
        instances = [lake() for _ in range(3)]
        for played in instances:
            played.reset(seed=1)
        instances[0].move_right()
        instances[0].move_right()
        # The probe and the episode that is over are closed already.
        assert lake.close() == 2
        for played in instances:
            played.reset(seed=2)
    assert lake.close() == 0


def test_a_lost_server_fails_all_instances_at_once(start_server: StartServer) -> None:
    away = start_server()
    lake = environment("frozen_lake", url=away.url, deadline_s=DEADLINE_S, env_kwargs=LASTING)
    instances = [lake() for _ in range(50)]
    for played in instances:
        played.reset(seed=1)
    away.stop(signal.SIGKILL)
    waited = [waited_by(played) for played in instances]
    assert [played.move_right() for played in instances] == [OVER] * 50
    # Only the first one waited for the server.
    assert [waited_by(played) > before for played, before in zip(instances, waited, strict=True)] == [
        True,
        *[False] * 49,
    ]
    # Not as long as other trainers wait by default.
    assert waited_by(instances[0]) < HANG_S < RolloutOptions.deadline_s
    for played in instances:
        with pytest.raises(EpisodeFailedError) as caught:
            played.get_reward()
        assert "frozen_lake" in caught.value.env_name
        assert caught.value.attempts == 1
    # The next batch tries anew, and stops the training itself.
    with pytest.raises(EpisodeFailedError):
        instances[0].reset(seed=1)


def test_after_a_loss_the_training_can_go_on_with_a_server_that_is_back(start_server: StartServer) -> None:
    first = start_server()
    lake = environment("frozen_lake", url=first.url, deadline_s=DEADLINE_S, env_kwargs=LASTING)
    played = lake()
    played.reset(seed=1)
    first.stop(signal.SIGKILL)
    assert played.move_right() == OVER
    start_server("--port", str(first.port))
    assert "P\tF" in played.reset(seed=1)
    assert played.move_right() != OVER
    assert played.get_reward() == 0.0
