"""What stands around an agent loop of verl, without a model: the configuration that it looks at.

The measurements and the tests use it; it needs verl to be installed.
"""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap

from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop


def trainer_config(**overrides: Any) -> DictConfigWrap:
    """The part of verl's configuration that agent loops look at; ``overrides`` are those of the rollout."""
    rollout = {
        "prompt_length": 8192,
        "response_length": 8192,
        "full_determinism": False,
        "multi_turn": {"format": "hermes", "max_assistant_turns": None},
        **overrides,
    }
    return DictConfigWrap(OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}}))


def data_config(options: dict[str, Any]) -> DictConfigWrap:
    """verl's configuration of the data, with these options of the rollout."""
    return DictConfigWrap(OmegaConf.create({"env": options, "apply_chat_template_kwargs": {}}))


def agent_loop(
    model: Any,
    tokenizer: Any,
    trainer: DictConfigWrap,
    data: DictConfigWrap,
    *,
    processor: Any = None,
    hf_model_type: str = "qwen2",
    loop_class: type[EnvAgentLoop] = EnvAgentLoop,
) -> EnvAgentLoop:
    """An agent loop as verl's worker makes one for each sample."""
    return loop_class(
        trainer_config=trainer,
        server_manager=model,
        tokenizer=tokenizer,
        processor=processor,
        dataset_cls=None,
        data_config=data,
        hf_model_type=hf_model_type,
    )
