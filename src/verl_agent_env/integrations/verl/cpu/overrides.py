"""Replacements for three functions of verl 0.9 that need an accelerator."""

from __future__ import annotations

from typing import Any

import torch
import verl.utils.distributed
import verl.utils.fsdp_utils
import verl.utils.model


def install() -> None:
    """Replace the functions in this process."""
    # verl joins "cpu:gloo" with the device's own backend, and PyTorch takes no device twice.
    verl.utils.distributed.initialize_global_process_group_ray.__defaults__ = (None, "cpu:gloo")
    verl.utils.model.load_valuehead_model = load_critic
    verl.utils.fsdp_utils.CPUOffloadPolicy = _unpinned(verl.utils.fsdp_utils.CPUOffloadPolicy)


def load_critic(local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool) -> Any:
    """Create a critic with the configured attention; verl's own function requires flash attention."""
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        torch_dtype=torch_dtype,
        config=model_config,
        attn_implementation=getattr(model_config, "_attn_implementation", None) or "sdpa",
        trust_remote_code=trust_remote_code,
    )


def _unpinned(policy: type[Any]) -> type[Any]:
    """Return the offload policy of the reference model without pinned memory, which needs an accelerator."""

    class UnpinnedOffloadPolicy(policy):  # type: ignore[misc]
        def __init__(self, pin_memory: bool = False) -> None:
            super().__init__(pin_memory=False)

    return UnpinnedOffloadPolicy
