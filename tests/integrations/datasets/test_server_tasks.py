"""Rows of the tasks that a server lists."""

from __future__ import annotations

import pytest

from tests.conftest import ServerProcess, StartServer
from tests.ports import free_port
from verl_agent_env.client import EnvClient
from verl_agent_env.integrations.datasets.server_tasks import is_task_reference, rows_of_tasks
from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec


def test_a_row_is_the_episode_of_its_task(server: ServerProcess) -> None:
    rows = rows_of_tasks("tasks:frozen_lake/test", RolloutOptions(server.url), 3)
    assert [row["extra_info"]["index"] for row in rows] == [0, 1, 2]
    with EnvClient(server.url) as client:
        for row in rows:
            spec = EpisodeSpec.from_row(row)
            with client.make(spec.env_name, task=("test", row["extra_info"]["index"])) as env:
                begun = env.reset()
                assert (spec.seed, spec.tools) == (begun.info["seed"], env.tools())
                assert row["prompt"] == begun.observation
    assert {row["data_source"] for row in rows} == {"verl_env/frozen_lake-v1"}


def test_listed_tasks_are_read_to_their_end(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tasks") / "hard.jsonl"
    path.write_text('{"seed": 4, "env_kwargs": {"size": 3}}\n{"env_kwargs": {"size": 5}}\n')
    server = start_server("--tasks", f"frozen_lake={path}")
    rows = rows_of_tasks("tasks:verl_env/frozen_lake-v1/hard", RolloutOptions(server.url), None)
    specs = [EpisodeSpec.from_row(row) for row in rows]
    assert [(spec.seed, spec.env_kwargs) for spec in specs] == [(4, {"size": 3}), (1, {"size": 5})]


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("tasks:frozen_lake", "write tasks:ENV_NAME/SPLIT"),
        ("tasks:frozen_lake/train", "train_max_samples"),
        ("tasks:frozen_lake/dev", "dev"),
        ("tasks:frozen_lak/train", "Did you mean"),
        ("tasks:verl_env/mcp_chat-v0/test", "has no tasks"),
    ],
)
def test_what_names_no_tasks_is_said_in_one_sentence(
    server: ServerProcess, reference: str, told: str
) -> None:
    with pytest.raises(TrainingSetupError, match=told):
        rows_of_tasks(reference, RolloutOptions(server.url), None)


def test_a_missing_server_is_said() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrainingSetupError, match=r"data\.env\.url"):
        rows_of_tasks("tasks:frozen_lake/train", RolloutOptions(url), 1)


def test_a_file_is_no_list_of_tasks() -> None:
    assert is_task_reference("tasks:frozen_lake/train")
    assert not is_task_reference("data/tasks:odd.parquet")
