"""The data sets over curated files, and what they refuse before a training starts."""

from __future__ import annotations

import shutil
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.ports import free_port
from verl_agent_env.client import EnvClient
from verl_agent_env.integrations.datasets import Component, CurationPlan, curate
from verl_agent_env.integrations.errors import TrainingSetupError

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")

LAKE = Component("frozen_lake", 1.0, {"size": 4, "max_steps": 12})
COUNTDOWN = Component("countdown", 1.0, {"num_numbers": 3})
ReadData = Callable[..., Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    curate(CurationPlan((LAKE, COUNTDOWN), train=12, test=4, demonstrations=8, test_greedy=True), out)
    return out


@pytest.fixture
def read_data(tokenizer: Any, server: ServerProcess, files: Path) -> ReadData:
    """A function that reads a file as verl's trainer does."""
    from omegaconf import OmegaConf

    def read(
        path: Path | str | None = None,
        tokenizer: Any = tokenizer,
        env: Any = None,
        max_samples: int = -1,
        **config: Any,
    ) -> Any:
        from verl_agent_env.integrations.verl.rollout.dataset import EnvDataset

        settings = {
            "max_prompt_length": 8192,
            "filter_overlong_prompts": False,
            "env": {"url": server.url, **(env or {})},
            **config,
        }
        return EnvDataset(
            str(path or files / "train.parquet"),
            tokenizer,
            OmegaConf.create(settings),
            max_samples=max_samples,
        )

    return read


def test_every_row_becomes_what_the_agent_loop_takes(read_data: ReadData) -> None:
    from verl_agent_env.integrations.rollout.row import EpisodeSpec

    data = read_data()
    assert len(data) == 12
    rows = [data[number] for number in range(len(data))]
    assert [row["index"] for row in rows] == list(range(12))
    assert {row["agent_name"] for row in rows} == {"env_agent"}
    assert rows[0]["raw_prompt"][0]["role"] == "user"
    specs = [EpisodeSpec.from_row(row) for row in rows]
    kwargs = {spec.env_name: spec.env_kwargs for spec in specs}
    assert kwargs == {
        "verl_env/frozen_lake-v1": LAKE.env_kwargs,
        "verl_env/countdown-v0": COUNTDOWN.env_kwargs,
    }
    assert all(spec.tools for spec in specs)


def test_tasks_of_the_server_are_rows_too(read_data: ReadData) -> None:
    from verl_agent_env.integrations.rollout.row import EpisodeSpec

    data = read_data("tasks:frozen_lake/test", max_samples=5)
    rows = [data[number] for number in range(len(data))]
    assert [row["index"] for row in rows] == list(range(5))
    assert {row["agent_name"] for row in rows} == {"env_agent"}
    assert len({EpisodeSpec.from_row(row).seed for row in rows}) == 5
    assert rows[0]["raw_prompt"][0]["role"] == "user"
    with pytest.raises(TrainingSetupError, match="max_samples"):
        read_data("tasks:frozen_lake/test")


def test_verls_own_data_set_reads_the_same_file(read_data: ReadData, files: Path, tokenizer: Any) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"filter_overlong_prompts": False})
    plain = RLHFDataset(str(files / "train.parquet"), tokenizer, config)
    ours = read_data()
    for number in range(len(ours)):
        assert plain[number]["extra_info"] == ours[number]["extra_info"]
        assert plain[number]["raw_prompt"] == ours[number]["raw_prompt"]


def test_greedy_copies_of_test_rows_are_reported_apart(read_data: ReadData, files: Path) -> None:
    data = read_data(files / "test.parquet")
    sources = [data[number]["data_source"] for number in range(len(data))]
    greedy = [data[number]["extra_info"]["greedy"] for number in range(len(data))]
    assert greedy == [False] * 4 + [True] * 4
    assert sources[4:] == [f"{source}-greedy" for source in sources[:4]]


def test_curriculum_draws_rows_to_train_on_by_their_results(
    read_data: ReadData, files: Path, server: ServerProcess
) -> None:
    """By those of the run on the server, under the very names that it counts them by."""
    from verl_agent_env.integrations.rollout.row import EpisodeSpec

    env = {"curriculum": "pass_rate", "run_id": "verl-curriculum"}
    config = {
        "dataloader_num_workers": 0,
        "train_batch_size": 300,
        "train_files": str(files / "train.parquet"),
    }
    data = read_data(env=env, **config)
    before = Counter(data[0]["index"] for _ in range(300))
    assert len(before) == 12
    plain = read_data()
    specs = [EpisodeSpec.from_row(plain[number]) for number in range(len(plain))]
    unsolved = next(spec for spec in specs if spec.env_name == "verl_env/frozen_lake-v1")
    with EnvClient(server.url) as client:
        for _ in range(30):
            with client.make(
                unsolved.env_name,
                seed=unsolved.seed,
                env_kwargs=unsolved.env_kwargs,
                run_id="verl-curriculum",
            ) as env_of_row:
                env_of_row.reset()
                while not (step := env_of_row.step("nothing")).is_over:
                    assert step.reward == 0.0
    drawn = [data[0] for _ in range(300)]
    hard = sum(EpisodeSpec.from_row(row) == unsolved for row in drawn)
    assert 0 < hard < 12
    held_out = read_data(files / "test.parquet", env=env, **config)
    assert [held_out[number]["index"] for number in range(4)] == [0, 1, 2, 3]


def test_curriculum_says_what_it_needs_before_the_training(read_data: ReadData, files: Path) -> None:
    config = {"train_files": str(files / "train.parquet")}
    with pytest.raises(TrainingSetupError, match="'curriculum' needs 'run_id'"):
        read_data(env={"curriculum": "pass_rate"}, dataloader_num_workers=0, **config)
    with pytest.raises(TrainingSetupError, match=r"data\.dataloader_num_workers=0"):
        read_data(env={"curriculum": "pass_rate", "run_id": "r"}, **config)
    with pytest.raises(TrainingSetupError, match="must be none or pass_rate"):
        read_data(env={"curriculum": "hardest", "run_id": "r"}, dataloader_num_workers=0, **config)


def test_reading_asks_no_hub_and_writes_no_cache(
    read_data: ReadData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: ServerProcess
) -> None:
    asked = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> Any:
        asked.append(address)
        return connect(self, address)

    import datasets

    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Where the library would write was settled when it was imported.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    assert len(read_data(env={"check_server": False})) == 12
    assert [address for address in asked if isinstance(address, tuple)] == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_server_is_said_before_the_training(read_data: ReadData) -> None:
    with pytest.raises(TrainingSetupError, match=r"\+data\.env\.url"):
        read_data(env={"url": f"http://127.0.0.1:{free_port()}"})


@pytest.mark.parametrize(
    ("component", "told"),
    [
        ({"env_name": "verl_env/sokobna-v0"}, "Did you mean"),
        ({"env_kwargs": '{"sise": 4}'}, "sise"),
        ({"env_kwargs": "{"}, "is not JSON"),
        ({"env_name": None}, "no 'env_name'"),
    ],
)
def test_wrong_names_and_arguments_in_the_data_are_said_before_the_training(
    read_data: ReadData, files: Path, tmp_path: Path, component: dict[str, Any], told: str
) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(files / "train.parquet")
    rows = table.to_pylist()
    rows[3]["extra_info"] |= component
    spoilt = tmp_path / "spoilt.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), spoilt)
    with pytest.raises(TrainingSetupError, match=told):
        read_data(spoilt)


def test_prompts_beyond_the_budget_are_refused_or_left_out(read_data: ReadData) -> None:
    longest = TrainingSetupError
    with pytest.raises(longest, match=r"Every prompt|12 of 12") as caught:
        read_data(max_prompt_length=100)
    needed = int(str(caught.value).partition("data.max_prompt_length=")[2].split(",")[0])
    assert len(read_data(max_prompt_length=needed)) == 12
    fewer = read_data(max_prompt_length=needed - 1, filter_overlong_prompts=True)
    assert 0 < len(fewer) < 12
    with pytest.raises(TrainingSetupError, match="Every prompt"):
        read_data(max_prompt_length=100, filter_overlong_prompts=True)


def test_the_length_that_is_checked_is_that_of_the_rollout(
    read_data: ReadData, tokenizer: Any, server: ServerProcess
) -> None:
    import asyncio

    from tests.integrations.verl import fakes
    from verl_agent_env.integrations.verl.rollout.shared import shared

    async def prompt_ids(row: dict[str, Any]) -> list[int]:
        loop = fakes.agent_loop(fakes.FakeModel("1"), tokenizer, {"url": server.url, "max_turns": 1})
        try:
            output = await loop.run({}, **row)
        finally:
            await shared().close()
        return list(output.prompt_ids)

    data = read_data()
    lengths = [len(asyncio.run(prompt_ids(data[number]))) for number in range(2)]
    with pytest.raises(TrainingSetupError):
        read_data(max_samples=2, max_prompt_length=max(lengths) - 1)
    read_data(max_samples=2, max_prompt_length=max(lengths))


def test_a_model_without_chat_template_is_refused(read_data: ReadData) -> None:
    from tests.integrations.verl.fakes import byte_tokenizer

    mute = byte_tokenizer()
    mute.chat_template = None
    with pytest.raises(TrainingSetupError, match="chat template"):
        read_data(tokenizer=mute)


def test_a_parser_that_verl_has_not_is_said_before_the_training(read_data: ReadData) -> None:
    with pytest.raises(TrainingSetupError, match="'hermse'"):
        read_data(env={"tool_format": "hermse"})
    assert len(read_data(env={"tool_format": "hermse", "action_format": "text"})) == 12
    assert len(read_data(env={"tool_format": "hermes"})) == 12


def test_pictures_need_a_model_that_sees(read_data: ReadData, tmp_path: Path) -> None:
    seen = Component("frozen_lake", 1.0, {"size": 4, "observation_mode": "image"})
    curate(CurationPlan((seen,), train=2, test=0), tmp_path)
    with pytest.raises(TrainingSetupError, match="vision-language"):
        read_data(tmp_path / "train.parquet")


def test_files_that_are_none_of_ours_are_named(read_data: ReadData, files: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(TrainingSetupError, match="cannot be read"):
        read_data(broken)
    shutil.copy(files / "sft.parquet", tmp_path / "sft.parquet")
    with pytest.raises(TrainingSetupError, match="no column 'prompt'"):
        read_data(tmp_path / "sft.parquet")


def test_demonstrations_are_read_with_their_tools(files: Path, tokenizer: Any) -> None:
    from omegaconf import OmegaConf

    from verl_agent_env.integrations.verl.rollout.dataset import EnvSFTDataset

    config = OmegaConf.create({"max_length": 8192, "truncation": "error", "ignore_input_ids_mismatch": False})
    data = EnvSFTDataset(str(files / "sft.parquet"), tokenizer, config)
    assert len(data) == 8
    item = data[0]
    text = tokenizer.decode(item["input_ids"][item["attention_mask"] == 1])
    learned = tokenizer.decode(item["input_ids"][item["loss_mask"] == 1])
    assert "<tools>" in text
    assert "<tools>" not in learned
    assert learned.count("<tool_call>") == text.count("<tool_call>") > 0
