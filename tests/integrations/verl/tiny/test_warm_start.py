"""A tiny model learns the form of answers from demonstrations, and only from the player's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_agent_env.integrations.datasets import Component, CurationPlan, curate

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'verl-agent-env[verl-cpu]'")
transformers = pytest.importorskip("transformers")

LAKE = Component("frozen_lake", 1.0, {"size": 4, "max_steps": 12, "observation_style": "local"})


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    curate(CurationPlan((LAKE,), train=64, test=0, demonstrations=64, noise=0.3), out)
    return out / "sft.parquet"


def test_only_answers_and_their_ends_are_learned_from(demonstrations: Path) -> None:
    from verl_agent_env.integrations.verl.tiny import warm_start
    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer, phrases_of

    conversations = warm_start.read_demonstrations(demonstrations)
    tokenizer = byte_tokenizer(phrases_of(conversations, ()))
    example = warm_start._example(tokenizer, conversations[0])
    learned = [token for token, is_answer in zip(example.ids, example.is_answer, strict=True) if is_answer]
    said = [m["content"] for m in conversations[0].messages if m["role"] == "assistant"]
    assert tokenizer.decode(learned) == "".join(f"{answer}<|im_end|>" for answer in said)
    assert len(learned) == 2 * len(said)


def test_model_that_was_taught_answers_in_the_right_form(demonstrations: Path, tmp_path: Path) -> None:
    from verl_agent_env.integrations.verl.cpu.generator import GenerationRequest, Generator
    from verl_agent_env.integrations.verl.tiny.warm_start import (
        TinyModel,
        WarmStart,
        make_model,
        read_demonstrations,
    )

    conversations = read_demonstrations(demonstrations)
    losses: list[float] = []
    shape = TinyModel(hidden_size=32, layers=1, heads=2)
    training = WarmStart(steps=40, batch=8, lr=1e-2)
    size = make_model(conversations, shape, training, tmp_path, 0, lambda _, loss: losses.append(loss))
    assert len(losses) == 40
    assert losses[-1] < losses[0] / 3
    generator = Generator.from_pretrained(str(tmp_path))
    assert sum(parameter.numel() for parameter in generator._model.parameters()) == size
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.apply_chat_template(
        conversations[0].messages[:1],
        tools=conversations[0].tools,
        add_generation_prompt=True,
        return_dict=False,
    )
    stop = frozenset({tokenizer.eos_token_id})
    (answer,) = generator.generate([GenerationRequest(list(ids), 8, 0.0, stop)])
    assert answer.is_complete
    assert tokenizer.decode(answer.token_ids).startswith('<tool_call>\n{"name": "move_')
