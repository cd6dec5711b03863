"""Sampling in batches gives what the model alone would give, whatever stands beside a row and whatever is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'verl-agent-env[verl-cpu]'")
transformers = pytest.importorskip("transformers")

if TYPE_CHECKING:
    from verl_agent_env.integrations.verl.cpu.generator import Generation, Generator

END = 1
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15], [16, 17, 18, 19]]


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return transformers.Qwen2ForCausalLM(config).eval()


@pytest.fixture
def generator() -> Generator:
    from verl_agent_env.integrations.verl.cpu.generator import Generator

    return Generator(model())


def ask(generator: Generator, prompts: Sequence[list[int]], **options: Any) -> list[Generation]:
    from verl_agent_env.integrations.verl.cpu.generator import GenerationRequest

    options = {"max_tokens": 5, "temperature": 0.0, **options}
    answers: list[Generation] = generator.generate([GenerationRequest(ids, **options) for ids in prompts])
    return answers


def expected_log_probs(one: Any, prompt: list[int], answer: list[int], temperature: float) -> list[float]:
    """Of the answer's tokens, from one run over the whole conversation."""
    with torch.inference_mode():
        logits = one(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
    log_probs = torch.log_softmax(logits / (temperature or 1.0), -1)
    return [log_probs[i, token].item() for i, token in enumerate(answer)]


def test_likeliest_tokens_are_those_of_the_model_alone_in_every_turn(generator: Generator) -> None:
    prompts = [list(ids) for ids in PROMPTS]
    alone = model()
    for turn in range(3):
        answers = ask(generator, prompts)
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            wanted = alone.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=0)
            assert answer.token_ids == wanted[0, len(prompt) :].tolist()
            assert answer.log_probs == pytest.approx(
                expected_log_probs(alone, prompt, answer.token_ids, 0.0), abs=1e-4
            )
            # Each conversation goes on by another length.
            prompts[number] = [*prompt, *answer.token_ids, *range(20, 22 + number + turn)]


def test_sampled_tokens_come_with_their_log_probabilities_under_the_temperature(generator: Generator) -> None:
    (answer,) = ask(generator, [PROMPTS[1]], temperature=2.0, max_tokens=20)
    wanted = expected_log_probs(model(), PROMPTS[1], answer.token_ids, 2.0)
    assert answer.log_probs == pytest.approx(wanted, abs=1e-4)
    assert len(set(answer.token_ids)) > 3


def test_what_is_remembered_is_not_run_again(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    forward = generator._model.forward

    def counted(**named: Any) -> Any:
        lengths.append(named["input_ids"].shape[1])
        return forward(**named)

    monkeypatch.setattr(generator._model, "forward", counted)
    (answer,) = ask(generator, [PROMPTS[1]], max_tokens=2)
    assert lengths == [7, 1]
    ask(generator, [[*PROMPTS[1], *answer.token_ids, 30, 31]], max_tokens=1)
    assert lengths == [7, 1, 3]


def test_conversations_that_begin_alike_share_what_is_remembered(generator: Generator) -> None:
    (begun,) = ask(generator, [PROMPTS[1]])
    both = [[*PROMPTS[1], *begun.token_ids, *more] for more in ([30, 31], [32, 33, 34])]
    for prompt, answer in zip(both, ask(generator, both), strict=True):
        assert answer.log_probs == pytest.approx(
            expected_log_probs(model(), prompt, answer.token_ids, 0.0), abs=1e-4
        )


def test_new_weights_forget_what_the_old_ones_computed(generator: Generator) -> None:
    (answer,) = ask(generator, [PROMPTS[1]])
    longer = [*PROMPTS[1], *answer.token_ids, 30]
    other = model(seed=1)
    generator.load_weights(other.state_dict())
    (after,) = ask(generator, [longer])
    assert after.log_probs == pytest.approx(expected_log_probs(other, longer, after.token_ids, 0.0), abs=1e-4)


def test_weights_that_are_not_the_models_are_refused_and_change_nothing(generator: Generator) -> None:
    (before,) = ask(generator, [PROMPTS[0]])
    weights = model(seed=1).state_dict() | {"no.such": torch.zeros(1)}
    with pytest.raises(KeyError, match=r"no\.such"):
        generator.load_weights(weights)
    (after,) = ask(generator, [PROMPTS[0]])
    assert after.log_probs == before.log_probs


def test_a_stop_token_ends_one_answer_and_the_limit_the_other(generator: Generator) -> None:
    (free,) = ask(generator, [PROMPTS[0]], max_tokens=8)
    assert not free.is_complete
    assert len(free.token_ids) == 8
    stop = free.token_ids[2]
    both = ask(generator, PROMPTS[:2], max_tokens=8, stop_ids=frozenset({stop}))
    assert both[0].is_complete
    assert both[0].token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    assert len(both[1].token_ids) == 8 or both[1].is_complete


def test_no_more_sequences_are_remembered_than_told() -> None:
    from verl_agent_env.integrations.verl.cpu.generator import Generator

    generator = Generator(model(), max_sequences=2)
    ask(generator, PROMPTS)
    assert len(generator._memory) == 2
