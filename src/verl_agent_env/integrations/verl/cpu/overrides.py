"""Three places where verl 0.9 takes an accelerator for granted; replaced in process, its files stay as they are."""

from __future__ import annotations

from typing import Any

import torch
import verl.utils.distributed
import verl.utils.fsdp_utils
import verl.utils.model


def install() -> None:
    """Replace them."""
    # verl joins "cpu:gloo" with the device's own backend, and PyTorch takes no device twice.
    verl.utils.distributed.initialize_global_process_group_ray.__defaults__ = (None, "cpu:gloo")
    verl.utils.model.load_valuehead_model = load_critic
    verl.utils.fsdp_utils.CPUOffloadPolicy = _unpinned(verl.utils.fsdp_utils.CPUOffloadPolicy)


def load_critic(local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool) -> Any:
    """A critic with the attention that is configured; verl's own function insists on flash attention."""
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        torch_dtype=torch_dtype,
        config=model_config,
        attn_implementation=getattr(model_config, "_attn_implementation", None) or "sdpa",
        trust_remote_code=trust_remote_code,
    )


def _unpinned(policy: type[Any]) -> type[Any]:
    """The offload policy of the reference model without pinned memory, which needs an accelerator."""

    class UnpinnedOffloadPolicy(policy):  # type: ignore[misc]
        def __init__(self, pin_memory: bool = False) -> None:
            super().__init__(pin_memory=False)

    return UnpinnedOffloadPolicy
