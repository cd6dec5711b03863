"""Batched sampling from a transformers model, which continues each conversation from its cached prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from verl_agent_env.integrations.verl.cpu.prefix_cache import PrefixCache

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer, of shape (heads, tokens, head size)."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, with the parameters of the answer."""

    prompt_ids: list[int]
    """All tokens of the conversation so far."""
    max_tokens: int
    """Largest number of tokens in the answer."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer, and are its last."""


@dataclass(slots=True)
class Generation:
    """An answer of the model."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    """Of each token, under the temperature it was sampled with."""
    is_complete: bool = False
    """True if the answer ends with a stop token; False if it was truncated."""


class Generator:
    """A model with a cache of keys and values of its conversations, whose tokens are not computed again.

    Conversations are recognized by their tokens, because verl names each turn differently. :meth:`load_weights` clears the
    cache, which belongs to the weights that filled it.
    """

    def __init__(self, model: torch.nn.Module, max_sequences: int = 2_048) -> None:
        """Create a generator.

        Args:
            model: A causal language model of transformers in evaluation mode.
            max_sequences: Size of the cache, one entry for each turn; the least recently used are dropped.
        """
        self._model: Any = model
        self._memory: PrefixCache[KeysAndValues] = PrefixCache(max_sequences)

    @classmethod
    def from_pretrained(cls, path: str, **named: Any) -> Generator:
        """Load the model of a folder, in single precision."""
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
        return cls(model.eval(), **named)

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take other weights.

        Raises:
            KeyError: One of them is not the model's; nothing is changed.
        """
        own = self._model.state_dict()
        unknown = [name for name in weights if name not in own]
        if unknown:
            raise KeyError(f"the model has no weights named {', '.join(unknown[:3])}")
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)
        self._memory.clear()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Answer all ``requests``, in one batch.

        Rows are aligned at their ends twice over: what is remembered, then what is new, each with padding before it.
        Positions are given, and padding is masked, so that a row's result does not depend on the other rows.
        """
        remembered = [self._memory.longest_prefix(request.prompt_ids) for request in requests]
        past, past_mask = self._joined([memory for _, memory in remembered])
        new = [request.prompt_ids[known:] for request, (known, _) in zip(requests, remembered, strict=True)]
        width = max(map(len, new))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in new])
        new_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in new])
        mask = torch.cat([past_mask, new_mask], 1)
        known = torch.tensor([known for known, _ in remembered]).unsqueeze(1)
        positions = (known + new_mask.cumsum(1) - 1).clamp(min=0)
        temperatures = torch.tensor([request.temperature for request in requests])
        answers = [Generation() for _ in requests]
        waiting = torch.ones(len(requests), dtype=torch.bool)
        while True:
            tokens, log_probs = self._sample(ids, mask, positions, past, temperatures)
            for row, (token, log_prob) in enumerate(zip(tokens.tolist(), log_probs.tolist(), strict=True)):
                if not waiting[row]:
                    continue
                request, answer = requests[row], answers[row]
                answer.token_ids.append(token)
                answer.log_probs.append(log_prob)
                answer.is_complete = token in request.stop_ids
                waiting[row] = not answer.is_complete and len(answer.token_ids) < request.max_tokens
            if not waiting.any():
                break
            ids = tokens.unsqueeze(1)
            # Finished rows still run in the batch; their tokens are masked.
            mask = torch.cat([mask, waiting.long().unsqueeze(1)], 1)
            positions = positions[:, -1:] + 1
        self._remember(requests, answers, past, mask)
        return answers

    def _sample(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        past: DynamicCache,
        temperatures: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row, and its log probability."""
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        greedy = temperatures == 0
        log_probs = torch.log_softmax(logits / temperatures.where(~greedy, 1.0).unsqueeze(1), -1)
        sampled = torch.multinomial(log_probs.exp(), 1).squeeze(1)
        tokens = torch.where(greedy, logits.argmax(-1), sampled)
        return tokens, log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)

    def _joined(self, memories: Sequence[KeysAndValues | None]) -> tuple[DynamicCache, torch.Tensor]:
        """The memories of all rows as one cache, and the mask over it."""
        cache = DynamicCache()
        lengths = [0 if memory is None else memory[0][0].shape[1] for memory in memories]
        longest = max(lengths)
        mask = torch.tensor([[0] * (longest - length) + [1] * length for length in lengths], dtype=torch.long)
        known = [memory for memory in memories if memory is not None]
        if not known:
            return cache, mask.reshape(len(memories), 0)
        for layer, (some_keys, _) in enumerate(known[0]):
            heads, _, size = some_keys.shape
            keys = some_keys.new_zeros(len(memories), heads, longest, size)
            values = torch.zeros_like(keys)
            for row, memory in enumerate(memories):
                if memory is not None:
                    keys[row, :, longest - lengths[row] :], values[row, :, longest - lengths[row] :] = memory[
                        layer
                    ]
            cache.update(keys, values, layer)
        return cache, mask

    def _remember(
        self,
        requests: Sequence[GenerationRequest],
        answers: Sequence[Generation],
        past: DynamicCache,
        mask: torch.Tensor,
    ) -> None:
        columns = mask.bool()
        for row, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            # The last token was sampled, but not run.
            ids = [*request.prompt_ids, *answer.token_ids[:-1]]
            kept = columns[row]
            memory = [(layer.keys[row][:, kept], layer.values[row][:, kept]) for layer in past.layers]
            self._memory.remember(ids, memory)
