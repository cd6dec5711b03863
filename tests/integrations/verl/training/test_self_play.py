"""Self-play with verl's own trainer: one model at both seats of Connect Four, and the parts of the rewards in verl's log."""

from __future__ import annotations

import argparse
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import orjson
import pytest

from verl_agent_env.envs.connect_four import ConnectFourEnv
from verl_agent_env.integrations.datasets import Component, CurationPlan, curate
from verl_agent_env.messages.reading import strip_turn_ends
from verl_agent_env.types import Message

pytest.importorskip("verl", reason="verl is not installed: make verl-test")
pytest.importorskip("ray", reason="verl is not installed: make verl-test")
pytestmark = pytest.mark.filterwarnings("ignore")

GAME: dict[str, Any] = {
    "opponent": "self",
    "width": 3,
    "height": 3,
    "connect": 3,
    "max_steps": 16,
    "invalid_action_reward": -0.25,
    # For each character of an answer, -1/32: sums of such rewards are exact.
    "reward_parts": {"length": {"free_chars": 0, "max_chars": 16, "penalty": -0.5}},
}
PARTS = ("task", "invalid_action", "length")
PHRASES = (
    r"[.XO] [.XO] [.XO]\n",
    r"1 2 3\n",
    r"You have seat [01]\.",
    r" It is (?:your turn|the turn of seat [01])\.\n",
    r"You play [XO]\.",
    r"\nThe last piece fell into column [123]\.",
    r"\n[XO] has won\.",
    r"It is not your turn\. Wait for the others\.",
    r"Invalid action: [^\n]*\n",
)
OUTCOME = re.compile(
    r"\n<\|im_start\|>user\n(?:It is not your turn|Invalid action: ).*?<\|im_start\|>assistant\n", re.DOTALL
)
"""What stands between two answers."""
PROBLEMS, SAMPLES, STEPS = 4, 4, 2


class Sample(NamedTuple):
    """One sample, as verl wrote it down."""

    game: tuple[str, int]
    """Its group, and the number of the game in it."""
    seat: int
    answers: list[str]
    reward: float


def conversations(count: int) -> list[Any]:
    """Both seats' conversations of games of random moves, some of them invalid, as the agent loop shows them."""
    from verl_agent_env.integrations.verl.tiny.tokenizer import Conversation

    told: list[Any] = []
    for seed in range(count):
        env, dice = ConnectFourEnv(**GAME), random.Random(seed)
        _, info = env.reset(seed=seed)
        heard: tuple[list[Message], list[Message]] = ([], [])
        shown = None
        while info["turn"]:
            seat = info["turn"][0]
            if seat != shown:
                heard[seat].extend(env.seat_view(seat)["observation"])
            action = env.sample_action(dice)
            observation, *_, info = env.step({"seat": seat, "action": action})
            heard[seat].extend([{"role": "assistant", "content": action}, *observation])
            shown = seat
        told += [Conversation(messages, []) for messages in heard if messages]
    return told


@pytest.fixture(scope="module")
def played(trainer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps, of a model that knows how a move is written."""
    from verl_agent_env.integrations.verl.tiny.warm_start import TinyModel, WarmStart, make_model

    folder = tmp_path_factory.mktemp("self-play")
    component = Component("connect_four", env_kwargs=GAME)
    curate(CurationPlan((component,), train=PROBLEMS, test=0, repeat_layouts=True), folder / "data")
    # All games begin alike: there are none to hold out.
    shutil.copy(folder / "data/train.parquet", folder / "data/test.parquet")
    teaching = WarmStart(steps=150, vocabulary=PHRASES, threads=1)
    make_model(conversations(200), TinyModel(layers=2), teaching, folder / "model", seed=1)
    overrides = [
        "data.max_prompt_length=128",
        "data.max_response_length=1024",
        "++data.env.action_format=text",
        "data.env.max_tokens_per_turn=2",
        "++data.env.min_tokens_per_turn=1",
        f"++data.env.reward_parts=[{','.join(PARTS)}]",
        f"data.train_batch_size={PROBLEMS}",
        f"actor_rollout_ref.rollout.n={SAMPLES}",
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROBLEMS}",
        # So small that the model still writes moves in the second step.
        "actor_rollout_ref.actor.optim.lr=1e-4",
        f"trainer.total_training_steps={STEPS}",
        "trainer.val_before_train=False",
        f"trainer.test_freq={STEPS}",
        f"trainer.rollout_data_dir={folder}/samples",
        f"trainer.validation_data_dir={folder}/validation",
    ]
    options = argparse.Namespace(task="frozen_lake", method="grpo", size="tiny", seed=1, overrides=overrides)
    with trainer.progress_bar() as progress, trainer.serving(None, folder / "server.log") as url:
        settings = [*trainer.overrides_of(options, folder, folder), f"data.env.url={url}"]
        status = trainer.train(settings, folder, STEPS, progress)
        assert status == 0, (folder / "train.log").read_text(errors="replace")[-4000:]
        assert trainer.open_environments(url) == 0
    return folder


def samples_of(folder: Path, step: int) -> list[Sample]:
    """The samples of a training step, those of one game together."""
    samples = []
    for line in (folder / f"samples/{step}.jsonl").read_bytes().splitlines():
        found = orjson.loads(line)
        group, number, _ = found["uid"].rsplit("_", 2)
        (seat,) = re.findall(r"You have seat (\d)\.", found["input"])
        # Nothing after the prompt: the seat never came to act.
        answers = map(strip_turn_ends, OUTCOME.split(found["output"]) if found["output"] else [])
        samples.append(Sample((group, int(number) // 2), int(seat), list(answers), found["score"]))
    return sorted(samples)


def replayed(answers: Sequence[list[str]]) -> tuple[list[float], list[str]]:
    """What the seats get if these are their answers, and those that are left when the game is over."""
    env = ConnectFourEnv(**GAME)
    _, info = env.reset(seed=0)
    rewards, left = [0.0, 0.0], [iter(each) for each in answers]
    while info["turn"]:
        seat = info["turn"][0]
        *_, info = env.step({"seat": seat, "action": next(left[seat])})
        rewards = [before + paid for before, paid in zip(rewards, info["rewards"], strict=True)]
    return rewards, [answer for each in left for answer in each]


def test_one_model_plays_both_seats_and_each_has_its_own_reward(played: Path) -> None:
    """Two samples of a group are one game: their answers, played again in turn, come to exactly their rewards."""
    seen = []
    for step in range(1, STEPS + 1):
        samples = samples_of(played, step)
        assert [sample.seat for sample in samples] == [0, 1] * (PROBLEMS * SAMPLES // 2)
        for first, second in zip(samples[::2], samples[1::2], strict=True):
            assert first.game == second.game
            assert replayed([first.answers, second.answers]) == ([first.reward, second.reward], [])
            seen.append((first.reward, second.reward))
    assert len(seen) == STEPS * PROBLEMS * SAMPLES // 2
    # Each seat has won a game that the other has lost.
    assert any(first > 0.0 > second for first, second in seen)
    assert any(second > 0.0 > first for first, second in seen)


def test_the_trainer_learns_from_both_and_played_with_the_weights_that_it_trains(
    trainer: ModuleType, played: Path
) -> None:
    lines = trainer.read_log(played / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        rewards = [sample.reward for sample in samples_of(played, line["step"])]
        assert line["data"]["critic/score/mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert line["data"]["actor/grad_norm"] > 0.0
        assert 0.0 < line["data"]["training/rollout_probs_diff_max"] < 1e-4


def test_verl_logs_the_parts_of_the_rewards(trainer: ModuleType, played: Path) -> None:
    """Of both seats of each problem played at the end: their means are logged, and the parts of each are its reward."""
    logged = trainer.read_log(played / "log.jsonl")[-1]["data"]
    lines = (played / f"validation/{STEPS}.jsonl").read_bytes().splitlines()
    samples = [orjson.loads(line) for line in lines]
    assert len(samples) == 2 * PROBLEMS
    for part in PARTS:
        mean = sum(sample[f"part/{part}"] for sample in samples) / len(samples)
        assert logged[f"val-aux/verl_env/connect_four-v0/part/{part}/mean@2"] == pytest.approx(mean)
    for sample in samples:
        assert sample["score"] == sum(sample[f"part/{part}"] for part in PARTS)
        # A seat that never came to act has written nothing.
        assert (sample["part/length"] < 0.0) == bool(sample["output"])
    assert sum(sample["part/task"] for sample in samples) == 0.0
