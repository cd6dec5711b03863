"""Supervised training of a tiny model on noisy demonstrations.

The model then writes every answer in the right format and wins now and then, so that reinforcement learning has rewards
to learn from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import torch
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from verl_agent_env.integrations.verl.tiny.tokenizer import (
    ANSWER_HEADER,
    Conversation,
    byte_tokenizer,
    phrases_of,
)


@dataclass(frozen=True)
class TinyModel:
    """The shape of a Qwen2 model."""

    hidden_size: int = 96
    """Width."""
    layers: int = 3
    """Blocks."""
    heads: int = 4
    """Of attention, in each block."""
    max_tokens: int = 2_048
    """Length of a conversation."""


@dataclass(frozen=True)
class WarmStart:
    """Parameters of training on demonstrations."""

    steps: int = 350
    """Updates."""
    batch: int = 24
    """Episodes per update."""
    lr: float = 2e-3
    """Learning rate at its highest; it rises over 20 steps and falls to a twentieth."""
    observation_weight: float = 0.1
    """Weight of predicting observations, relative to actions."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    vocabulary: tuple[str, ...] = ()
    """Regular expressions of phrases that become one token each (:func:`phrases_of`)."""
    threads: int = 2
    """Threads of PyTorch."""


@dataclass(frozen=True, slots=True)
class _Example:
    ids: list[int]
    is_answer: list[bool]


def read_demonstrations(path: Path) -> list[Conversation]:
    """Read the episodes of a file of ``verl-agent-env curate --demonstrations``."""
    table = pyarrow.parquet.read_table(path, columns=["messages", "tools_json"])
    return [Conversation(row["messages"], orjson.loads(row["tools_json"])) for row in table.to_pylist()]


def make_model(
    conversations: Sequence[Conversation],
    shape: TinyModel,
    training: WarmStart,
    folder: Path,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> int:
    """Train a new model on ``conversations`` and write it, with its tokenizer, to ``folder``.

    Args:
        conversations: Demonstrations.
        shape: Shape of the model.
        training: Parameters of the training.
        folder: Folder for files that ``from_pretrained`` of transformers reads.
        seed: Seed of the initial weights and of the order of episodes.
        on_step: Called after each update with its number, from 1, and the loss over the player's tokens.

    Returns:
        Number of parameters.
    """
    torch.set_num_threads(training.threads)
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(phrases_of(conversations, training.vocabulary))
    examples = [_example(tokenizer, conversation) for conversation in conversations]
    model = Qwen2ForCausalLM(_config(shape, tokenizer))
    _train(model, examples, training, random.Random(seed), tokenizer.pad_token_id, on_step)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _config(shape: TinyModel, tokenizer: Any) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=3 * shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_sliding_window=False,
        attention_dropout=0.0,
    )


def _example(tokenizer: Any, conversation: Conversation) -> _Example:
    """Tokenize an episode, and mark the tokens of the player's answers, including their ends."""
    text = tokenizer.apply_chat_template(conversation.messages, tools=conversation.tools, tokenize=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    (header,) = tokenizer.encode(ANSWER_HEADER, add_special_tokens=False)
    is_answer, answering = [], False
    for token in ids:
        is_answer.append(answering)
        if token == header:
            answering = True
        elif token == tokenizer.eos_token_id:
            answering = False
    return _Example(ids, is_answer)


def _train(
    model: Any,
    examples: Sequence[_Example],
    training: WarmStart,
    dice: random.Random,
    padding: int,
    on_step: Callable[[int, float], None] | None,
) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.lr, weight_decay=training.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * max(0.05, 1 - step / training.steps)
    )
    model.train()
    for step in range(1, training.steps + 1):
        batch = [dice.choice(examples) for _ in range(training.batch)]
        width = max(len(example.ids) for example in batch)
        ids = torch.tensor([example.ids + [padding] * (width - len(example.ids)) for example in batch])
        known = torch.tensor([[True] * len(e.ids) + [False] * (width - len(e.ids)) for e in batch])[:, 1:]
        answer = torch.tensor([e.is_answer + [False] * (width - len(e.ids)) for e in batch])[:, 1:]
        # Padding comes last, where no earlier token looks.
        logits = model(input_ids=ids).logits[:, :-1]
        losses = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        said = losses[answer].mean()
        loss = said + training.observation_weight * losses[known & ~answer].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, said.item())
    model.eval()
