"""The example's configuration, as verl's workers read it, and verl's own post-processing of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")

EXAMPLE = Path(__file__).parents[4] / "examples" / "verl" / "agent_loop.yaml"


async def test_the_examples_entry_makes_an_agent_loop_that_plays(
    tokenizer: Any, server: ServerProcess
) -> None:
    import hydra
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop.agent_loop import ToolListWrap

    from loadtests.verl_stand_ins import data_config, trainer_config
    from tests.integrations.verl import fakes
    from verl_agent_env.integrations.rollout.row import AGENT_NAME
    from verl_agent_env.integrations.verl.rollout.shared import shared

    (entry,) = OmegaConf.load(EXAMPLE)
    assert entry.name == AGENT_NAME
    model = fakes.FakeModel("right")
    model.tokenizer = tokenizer
    loop = hydra.utils.instantiate(
        config=entry,
        trainer_config=trainer_config(),
        server_manager=model,
        tokenizer=tokenizer,
        processor=None,
        hf_model_type="qwen2",
        dataset_cls=None,
        data_config=data_config({"url": server.url}),
        tools=ToolListWrap([]),
    )
    try:
        output = await loop.run({}, **fakes.row("frozen_lake", desc=["SFG"], is_slippery=False))
    finally:
        await shared().close()
    fields = output.as_dict()
    assert fields["rm_scores"].sum().item() == 1.0
    assert fields["rm_scores"][-1].item() == 1.0
    assert fields["response_mask"].sum().item() == sum(output.response_mask)
    assert fields["rollout_log_probs"].shape == fields["responses"].shape
    assert fields["extra_fields"]["reward_extra_info"]["success"] == 1.0
