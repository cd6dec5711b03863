"""verl's own trainer on this machine's CPU, over HTTP, for two steps: the numbers fit, and nothing is left open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pyarrow as arrow
import pytest

from tests.ports import free_port
from verl_agent_env.cluster.local import LocalCluster

parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("verl", reason="verl is not installed: make verl-test")
pytest.importorskip("ray", reason="verl is not installed: make verl-test")
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 24
MADE = [
    "curation.train=1024",
    f"curation.test={ROWS}",
    "curation.demonstrations=1024",
    "warm_start.steps=150",
]
STEPS = ["trainer.total_training_steps=2", "trainer.test_freq=2"]
GROUPS = ["actor_rollout_ref.rollout.n=4", "data.train_batch_size=8"]
SINGLES = ["episodes.per_step=32", "episodes.per_update=16"]


def trained(trainer: ModuleType, folder: Path, *arguments: str) -> dict[str, Any]:
    """What came of a training."""
    status = trainer.main(["frozen_lake", "--out", str(folder), "--workers", "1", *STEPS, *arguments])
    assert status == 0, (folder / "train.log").read_text(errors="replace")[-4000:]
    result: dict[str, Any] = orjson.loads((folder / "result.json").read_bytes())
    return result


@pytest.fixture(scope="module")
def begun(trainer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training from nothing, with GRPO; others begin with its data and model."""
    folder = tmp_path_factory.mktemp("begun")
    trained(trainer, folder, *MADE, *GROUPS)
    return folder


def check_two_steps(folder: Path) -> None:
    result = orjson.loads((folder / "result.json").read_bytes())
    assert result["steps"] == [0, 2]
    assert all(0.0 < reward < 1.0 for reward in result["training_rewards"])
    assert 0.0 < result["rollout_probs_diff_max"] < 1e-4
    assert result["open_environments"] == 0
    assert (folder / "curve.png").stat().st_size > 1_000


def test_two_steps_of_grpo_train_on_what_was_played_and_leave_nothing_open(begun: Path) -> None:
    check_two_steps(begun)


def test_two_steps_of_ppo_train_a_critic_too(trainer: ModuleType, tmp_path: Path, begun: Path) -> None:
    trained(trainer, tmp_path, "--method", "ppo", "--start", str(begun), *SINGLES)
    check_two_steps(tmp_path)
    assert not (tmp_path / "model").exists()
    last = trainer.read_log(tmp_path / "log.jsonl")[-1]["data"]
    assert last["critic/vf_loss"] > 0


def test_a_training_starts_its_servers_on_ray(trainer: ModuleType, tmp_path: Path, begun: Path) -> None:
    trained(trainer, tmp_path, "--start", str(begun), "--cluster", "ray", *GROUPS)
    check_two_steps(tmp_path)
    assert not (tmp_path / "server.log").exists()


def refused(trainer: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said of arguments that are refused before anything is made."""
    with pytest.raises(SystemExit):
        trainer.main(arguments)
    return capsys.readouterr().err


def test_starts_that_do_not_fit_are_refused_before_anything_is_made(
    trainer: ModuleType, tmp_path: Path, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    lake = ["frozen_lake", *out, "--start"]
    assert "holds no data/curation.json" in refused(trainer, capsys, *lake, str(tmp_path))
    assert "of another environment" in refused(trainer, capsys, "sokoban", *out, "--start", str(begun))
    told = refused(trainer, capsys, *lake, str(begun), "curation.noise=0.1")
    assert "'curation.noise=0.1' changes nothing" in told
    assert not (tmp_path / "out").exists()


def test_a_training_is_not_written_over(
    trainer: ModuleType, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (begun / "log.jsonl").read_bytes()
    assert "holds a training already" in refused(trainer, capsys, "frozen_lake", "--out", str(begun))
    again = ["frozen_lake", "--out", str(begun), "--start", str(begun)]
    assert "holds a training already" in refused(trainer, capsys, *again)
    assert (begun / "log.jsonl").read_bytes() == before


def test_a_server_that_is_not_there_is_said_before_anything_is_made(
    trainer: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = refused(trainer, capsys, "frozen_lake", "--out", str(tmp_path / "out"), "--url", url)
    assert f"--url {url} is no server of environments" in told
    assert not (tmp_path / "out").exists()


def test_a_training_that_fails_is_shown_and_its_status_returned(
    trainer: ModuleType, tmp_path: Path, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder whose name has signs that Hydra would read as its own."""
    folder = tmp_path / "lr=1,(a)"
    faulty = ["frozen_lake", "--out", str(folder), "--start", str(begun), "data.max_prompt_length=8"]
    assert trainer.main(faulty) != 0
    assert "set data.max_prompt_length=" in " ".join(capsys.readouterr().out.split())
    assert "http://127.0.0.1" in (folder / "server.log").read_text()
    assert not (folder / "result.json").exists()


class Disturbance(threading.Thread):
    """Kills a node whenever it has environments, and starts it again, so often."""

    def __init__(self, cluster: LocalCluster, times: int) -> None:
        super().__init__()
        self._cluster, self._times = cluster, times
        self._ended = threading.Event()
        self.killed_with: list[int] = []
        """Live environments of each node that was killed."""

    def run(self) -> None:
        """Until it is told to end, or has struck often enough."""
        while len(self.killed_with) < self._times and not self._ended.wait(0.05):
            live = self._live()
            name = max(live, key=lambda node: live[node], default=None)
            if name is None or live[name] < 4:
                continue
            node = next(node for node in self._cluster.nodes if node.name == name)
            node.kill()
            self.killed_with.append(live[name])
            node.start()
            self._ended.wait(8)

    def _live(self) -> dict[str, int]:
        try:
            nodes = self._cluster.describe()["nodes"]
        except (OSError, ValueError, KeyError):
            return {}
        return {node["name"]: sum(worker["live_envs"] for worker in node["workers"]) for node in nodes}

    def end(self) -> None:
        """Do nothing more."""
        self._ended.set()
        self.join()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "cluster", nodes=2, workers=1) as made:
        yield made


def played(folder: Path) -> list[tuple[str, str, float]]:
    """Every training sample: the step it belongs to, what was said in it, its reward."""
    samples = [
        (file.stem, sample["input"] + sample["output"], sample["score"])
        for file in sorted((folder / "samples").glob("*.jsonl"))
        for sample in map(orjson.loads, file.read_bytes().splitlines())
    ]
    return sorted(samples)


def test_a_training_whose_node_is_killed_has_the_rewards_of_one_that_was_left_alone(
    trainer: ModuleType, tmp_path: Path, begun: Path, cluster: LocalCluster
) -> None:
    rows = parquet.read_table(begun / "data/test.parquet")
    greedy = [extra["greedy"] for extra in rows.column("extra_info").to_pylist()]
    parquet.write_table(rows.filter(arrow.array(greedy)), tmp_path / "greedy.parquet")

    def samples_of(name: str) -> list[tuple[str, str, float]]:
        """Of three steps that take the likeliest tokens and leave the weights as they are."""
        result = trained(
            trainer,
            tmp_path / name,
            f"--start={begun}",
            f"--url={cluster.url}",
            f"data.train_files={tmp_path}/greedy.parquet",
            f"trainer.rollout_data_dir={tmp_path}/{name}/samples",
            "data.shuffle=False",
            *GROUPS,
            f"data.train_batch_size={ROWS}",
            "actor_rollout_ref.actor.optim.lr=0",
            "trainer.val_before_train=False",
            "trainer.test_freq=-1",
            "trainer.total_training_steps=3",
        )
        assert result["open_environments"] == 0
        return played(tmp_path / name)

    undisturbed = samples_of("undisturbed")
    assert len(undisturbed) == 3 * ROWS * 4
    assert 0.0 < sum(reward for _, _, reward in undisturbed) < len(undisturbed)

    disturbance = Disturbance(cluster, times=2)
    disturbance.start()
    try:
        disturbed = samples_of("disturbed")
    finally:
        disturbance.end()
    assert disturbance.killed_with
    assert disturbed == undisturbed
