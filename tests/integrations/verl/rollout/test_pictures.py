"""Pictures in observations, shown to a processor of Qwen2-VL's kind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import ServerProcess

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")


class Eyes:
    """A processor as Qwen2-VL's: the mark of a picture becomes as many tokens as the picture takes.

    transformers' own needs torchvision, for its videos.
    """

    def __init__(self, tokenizer: Any) -> None:
        from transformers import Qwen2VLImageProcessorPil

        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template
        self.image_processor = Qwen2VLImageProcessorPil()
        self.pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def apply_chat_template(self, messages: list[dict[str, Any]], **arguments: Any) -> Any:
        return self.tokenizer.apply_chat_template(messages, **arguments)

    def tokens_of(self, images: list[Any]) -> list[int]:
        grids = self.image_processor(images=images, return_tensors="pt")["image_grid_thw"]
        counts: list[int] = (grids.prod(dim=1) // self.image_processor.merge_size**2).tolist()
        return counts

    def __call__(self, *, text: list[str], images: list[Any] | None, **_: Any) -> dict[str, Any]:
        counts = iter(self.tokens_of(images) if images else [])
        ids = self.tokenizer.encode(text[0])
        return {"input_ids": [[one for i in ids for one in [i] * (next(counts) if i == self.pad else 1)]]}


@pytest.mark.parametrize("mode", ["image", "both"])
async def test_pictures_reach_the_model_and_the_sample(
    tokenizer: Any, server: ServerProcess, mode: str
) -> None:
    from tests.integrations.verl import fakes
    from verl_agent_env.integrations.verl.rollout.shared import shared

    model = fakes.FakeModel("right")
    processor = Eyes(tokenizer)
    loop = fakes.agent_loop(
        model, tokenizer, {"url": server.url}, processor=processor, hf_model_type="qwen2_vl"
    )
    row = fakes.row("frozen_lake", desc=["SFFG"], is_slippery=False, observation_mode=mode)
    try:
        output = await loop.run({}, **row)
    finally:
        await shared().close()
    assert output.reward_score == 1.0
    images = output.multi_modal_data["images"]
    assert [len(request["image_data"]) for request in model.requests] == [1, 2, 3]
    assert [image.size for image in images] == [(64, 16)] * 3
    marks = [*output.prompt_ids, *output.response_ids].count(processor.pad)
    assert marks == sum(processor.tokens_of(images)) > 3
    masked = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert processor.pad not in masked
