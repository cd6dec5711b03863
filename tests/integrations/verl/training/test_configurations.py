"""Every choice of ``examples/verl/config`` gives a configuration that verl itself takes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.children import ROOT

pytest.importorskip("verl", reason="verl is not installed: make verl-test")
hydra = pytest.importorskip("hydra", reason="verl is not installed: make verl-test")
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = ROOT / "examples/verl/config"
TASKS, METHODS, SIZES = (
    sorted(path.stem for path in (CONFIG / group).glob("*.yaml")) for group in ("task", "method", "size")
)
MADE_HERE = ("tiny", "smollm2")
"""Sizes of models that ``train.py`` makes or unpacks, for a CPU."""


def composed(**choices: str) -> Any:
    with hydra.initialize_config_dir(str(CONFIG), version_base=None):
        return hydra.compose("train", [f"{group}={choice}" for group, choice in choices.items()])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What verl reads of a model before it loads it, for those that are not on this machine."""
    from transformers import Qwen2Config

    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer

    folder = tmp_path_factory.mktemp("model")
    Qwen2Config(architectures=["Qwen2ForCausalLM"]).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def accepted_by_verl(config: Any, model: str) -> None:
    """As verl's trainer looks at it before it starts anything."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config.actor_rollout_ref.model.path = model
    if need_critic(config):
        assert config.critic.model.path == model
    config.critic.model.path = config.critic.model.tokenizer_path = model
    OmegaConf.resolve(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    for part in (config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, config.critic):
        omega_conf_to_dataclass(part)


@pytest.mark.parametrize(("size", "task", "method"), list(itertools.product(MADE_HERE, TASKS, METHODS)))
def test_cpu_recipes(size: str, task: str, method: str, model: str) -> None:
    config = composed(device="cpu", size=size, task=task, method=method)
    accepted_by_verl(config, model)
    assert config.actor_rollout_ref.rollout.name == "cpu"
    assert config.data.custom_cls.name == "EnvDataset"


@pytest.mark.parametrize(
    ("device", "size", "method"),
    list(itertools.product(["vllm", "sglang"], [size for size in SIZES if size not in MADE_HERE], METHODS)),
)
def test_gpu_recipes(device: str, size: str, method: str, model: str) -> None:
    config = composed(device=device, size=size, task="sokoban_ragen", method=method)
    assert config.actor_rollout_ref.model.path.endswith("-Instruct")
    accepted_by_verl(config, model)
    assert config.actor_rollout_ref.rollout.name == device
    assert config.data.env.action_format == "text"


@pytest.mark.parametrize("method", METHODS)
def test_critic_is_there_for_ppo_alone(method: str) -> None:
    from verl.trainer.ppo.utils import need_critic

    assert need_critic(composed(method=method)) == (method == "ppo")


@pytest.mark.parametrize("task", ["frozen_lake", "countdown", "sokoban"])
def test_methods_learn_from_equally_many_episodes(task: str) -> None:
    """Of one step and of one update; PPO plays each problem once."""
    counts = []
    for method in METHODS:
        config = composed(task=task, method=method)
        training = config.actor_rollout_ref
        counts.append(
            [
                size * training.rollout.n
                for size in (config.data.train_batch_size, training.actor.ppo_mini_batch_size)
            ]
        )
        assert (training.rollout.n == 1) == (method == "ppo")
    assert counts[0] == counts[1]


def test_tasks_differ_only_in_what_is_played_how_much_and_how_fast_it_is_learnt() -> None:
    """Everything that is not the task's own, and no constant of its optimisation, is the same for all."""
    from omegaconf import OmegaConf

    own = ("curation", "warm_start", "data", "trainer")
    rest = []
    for task in ("frozen_lake", "countdown", "sokoban"):
        config = OmegaConf.to_container(composed(task=task), resolve=False)
        for part in own:
            config.pop(part)
        training = config["actor_rollout_ref"]
        for constant in ("ppo_mini_batch_size", "entropy_coeff"):
            training["actor"].pop(constant)
        for constant in ("lr", "lr_warmup_steps"):
            training["actor"]["optim"].pop(constant)
        training["rollout"].pop("n")
        config.pop("episodes")
        rest.append(config)
    assert rest[0] == rest[1] == rest[2]
