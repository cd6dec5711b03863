"""The tokens of an episode, exactly as the model was given or generated them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.template_messages import for_template, pictures_in
from verl_agent_env.integrations.verl.rollout.shared import shared
from verl_agent_env.messages.content import shows_picture
from verl_agent_env.types import Message

if TYPE_CHECKING:
    from PIL import Image
    from verl.workers.rollout.replica import TokenOutput

    from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop

_SHORT_CHARS = 8_192
"""Characters of an observation that take about a millisecond to render and tokenize."""


class Transcript:
    """Token ids, mask and log probabilities of an episode; generated tokens are never tokenized again."""

    def __init__(self, loop: EnvAgentLoop, tools: list[dict[str, Any]] | None) -> None:
        """Create an empty transcript.

        Args:
            loop: Agent loop with tokenizer, processor, budgets and verl's functions for merging tokens.
            tools: Tools in the prompt.
        """
        self._loop = loop
        self._tools = tools or None
        self._messages: list[Message] = []
        self._has_log_probs = True
        self._prompt_budget = loop.prompt_budget
        self.budget = loop.response_budget
        """Largest number of tokens in the response."""
        self.prompt_ids: list[int] = []
        self.token_ids: list[int] = []
        """All tokens, including those of the prompt."""
        self.mask: list[int] = []
        """1 for each token of the response that the model generated, 0 for the others."""
        self.log_probs: list[float] = []
        self.images: list[Image.Image] = []

    @property
    def response_ids(self) -> list[int]:
        """All tokens after the prompt."""
        return self.token_ids[len(self.prompt_ids) :]

    @property
    def known_log_probs(self) -> list[float] | None:
        """Log probability of each token of the response; ``None`` if the server does not return them."""
        return self.log_probs if self._has_log_probs else None

    @property
    def tokens_left(self) -> int:
        """Tokens left in the response budget."""
        return self.budget - len(self.mask)

    async def begin(self, messages: list[Message]) -> None:
        """Render the prompt.

        Raises:
            TrainingSetupError: The prompt is longer than the budget, or has pictures for a model without vision.
        """
        shown, images = self._readable(messages)
        builder, tools = self._loop.continuous_token_builder, self._tools

        def render() -> list[int]:
            ids: list[int] = builder.build_initial_tokens(shown, tools=tools, images=images or None)
            return ids

        if images:
            ids = await self._loop.loop.run_in_executor(None, render)
        else:
            ids = await shared().prompt((builder, orjson.dumps([shown, tools])), render)
        if len(ids) > self._prompt_budget:
            # verl would truncate its beginning, which has the rules of the game.
            raise TrainingSetupError(
                f"A prompt has {len(ids):,} tokens, the budget is {self._prompt_budget:,}: set "
                f"data.max_prompt_length={len(ids)}."
            )
        self._messages, self.images = shown, images
        self.prompt_ids, self.token_ids = ids, list(ids)

    def add_answer(self, output: TokenOutput) -> None:
        """Append the tokens that the model generated."""
        log_probs = output.log_probs or None
        if self._has_log_probs and log_probs is None and output.token_ids:
            self._has_log_probs, self.log_probs = False, []
        with_log_probs = self._has_log_probs and log_probs is not None
        builder = self._loop.continuous_token_builder
        merged = builder.merge_assistant_tokens(self.token_ids, output.token_ids)
        self.mask, aligned = builder.align_response_metadata(
            merged,
            self.mask,
            self.log_probs if with_log_probs else None,
            assistant_logprobs=log_probs if with_log_probs else None,
        )
        self.token_ids = merged.token_ids
        if aligned is not None:
            self.log_probs = aligned

    def close_answer(self, end_id: int) -> None:
        """End a truncated answer with a token that the model did not generate and does not learn."""
        self.token_ids = [*self.token_ids, end_id]
        self.mask = [*self.mask, 0]
        if self._has_log_probs:
            self.log_probs = [*self.log_probs, 0.0]

    async def add_messages(self, said: Message, answered: list[Message], room: int) -> bool:
        """Append the environment's answer to ``said``, if ``room`` tokens are left for the model afterwards.

        Returns:
            False if the answer did not fit; then nothing was changed.

        Raises:
            TrainingSetupError: The answer has pictures for a model without vision.
        """
        shown, images = self._readable(answered)
        before = [*self._messages, said]
        builder = self._loop.continuous_token_builder

        def merge() -> Any:
            return builder.merge_context_tokens(before, [*before, *shown], self.token_ids, tools=self._tools)

        # A thread costs more than a short text takes. Builders of models with vision process all pictures again.
        is_short = not builder.supports_multimodal() and sum(map(_chars_of, shown)) <= _SHORT_CHARS
        merged = merge() if is_short else await self._loop.loop.run_in_executor(None, merge)
        mask, log_probs = builder.align_response_metadata(
            merged, self.mask, self.log_probs if self._has_log_probs else None
        )
        if len(mask) + room > self.budget:
            return False
        self._messages = [*before, *shown]
        self.token_ids, self.mask = merged.token_ids, mask
        if log_probs is not None:
            self.log_probs = log_probs
        self.images = [*self.images, *images]
        return True

    def _readable(self, messages: list[Message]) -> tuple[list[Message], list[Image.Image]]:
        """Convert messages for chat templates; return them and their pictures."""
        if any(map(shows_picture, messages)):
            self._require_vision()
        shown = [for_template(message) for message in messages]
        return shown, [picture for message in shown for picture in pictures_in(message)]

    def _require_vision(self) -> None:
        if self._loop.processor is None or not self._loop.continuous_token_builder.supports_multimodal():
            raise TrainingSetupError(
                "The environment shows pictures, but the model takes none: curate with observation_mode 'text', or "
                "train a vision-language model."
            )


def _chars_of(message: Message) -> int:
    return len(message["content"])
