"""The agent loop with the chat templates of models that people train, and with a model that writes anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.integrations.verl.conftest import RUN_ID, MakeLoop
from verl_agent_env.client import AsyncEnvClient

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")

LAKE: dict[str, Any] = {"desc": ["SFFG"], "is_slippery": False}
# Installed beside the packages: verl tries to use a trl that it can import, and only knows an old one.
TEMPLATES = Path(sys.prefix) / "share/chat_templates/trl/chat_templates"
PARAMS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}


@pytest.fixture(params=["own", "qwen2_5", "qwen3_instruct_2507"])
def tokenizer(request: pytest.FixtureRequest, verl: None) -> Any:
    """A tokenizer of bytes with a model family's own template, which the package trl ships."""
    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer

    made = byte_tokenizer()
    if request.param != "own":
        file = TEMPLATES / f"{request.param}.jinja"
        if not file.exists():
            pytest.skip("the templates that trl ships are not here: make verl-test")
        made.chat_template = file.read_text()
    return made


@pytest.mark.parametrize("hf_model_type", ["qwen2", "one that verl does not know"])
async def test_tokens_equal_those_of_the_whole_conversation_rendered_at_once(
    make_loop: MakeLoop, tokenizer: Any, server: ServerProcess, hf_model_type: str
) -> None:
    from tests.integrations.verl.fakes import FakeModel, call, row

    model = FakeModel(call("move_right"))
    output = await make_loop(model, hf_model_type).run(dict(PARAMS), **row("frozen_lake", **LAKE))
    assert output.reward_score == 1.0
    async with (
        AsyncEnvClient(server.url) as client,
        client.make("frozen_lake", seed=3, env_kwargs=LAKE) as env,
    ):
        tools = await env.tools()
        messages = list((await env.reset()).observation)
        for turn in range(2):
            function = {"name": "move_right", "arguments": {}}
            shown = {"id": f"call_{turn}_0", "type": "function", "function": function}
            said = {"role": "assistant", "content": "", "tool_calls": [shown]}
            sent = {**said, "tool_calls": [{**shown, "function": {**function, "arguments": "{}"}}]}
            messages += [said, *(await env.step(sent)).observation]
    whole = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
    assert model.prompts()[-1] == whole


class RandomModel:
    """A Qwen2 model of random weights, as a model server."""

    def __init__(self, tokenizer: Any) -> None:
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        from verl_agent_env.integrations.verl.cpu.generator import Generator

        torch.manual_seed(4)
        shape = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        self._generator = Generator(Qwen2ForCausalLM(shape).eval())
        self._end = frozenset({tokenizer.eos_token_id})
        self.written: list[int] = []

    async def generate(self, **asked: Any) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        from verl_agent_env.integrations.verl.cpu.generator import GenerationRequest

        limit = asked["sampling_params"]["max_tokens"]
        (answer,) = self._generator.generate(
            [GenerationRequest(list(asked["prompt_ids"]), limit, 1.0, self._end)]
        )
        self.written += answer.token_ids
        return TokenOutput(token_ids=answer.token_ids, log_probs=answer.log_probs, extra_fields={})


@pytest.mark.parametrize(
    ("env_name", "action_format"),
    [("frozen_lake", "auto"), ("verl_env/sokoban_ragen-v0", "text"), ("countdown", "auto")],
)
async def test_whatever_a_model_writes_is_what_is_trained_on(
    make_loop: MakeLoop, tokenizer: Any, server: ServerProcess, env_name: str, action_format: str
) -> None:
    from tests.integrations.verl.fakes import row

    model: Any = RandomModel(tokenizer)
    loop = make_loop(model, action_format=action_format, max_turns=3, max_tokens_per_turn=24)
    output = await loop.run(dict(PARAMS), **row(env_name))
    trained_on = [
        token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask
    ]
    assert trained_on == model.written[: len(trained_on)]
    assert len(trained_on) >= len(model.written) - 24
    assert len(output.extra_fields["turn_scores"]) >= 1
    async with AsyncEnvClient(server.url) as client:
        assert await client.close_run(RUN_ID) == 0
