"""The tokens of an episode: what the model was shown and what it wrote, exactly as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.verl.rollout.shared import shared
from verl_agent_env.integrations.verl.rollout.template_messages import for_template, pictures_in
from verl_agent_env.messages.content import shows_picture
from verl_agent_env.types import Message

if TYPE_CHECKING:
    from PIL import Image
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase
    from verl.workers.rollout.replica import TokenOutput


class Transcript:
    """Grows turn by turn; nothing that was generated is ever tokenised again."""

    def __init__(self, loop: AgentLoopBase, tools: list[dict[str, Any]] | None) -> None:
        """An empty one.

        Args:
            loop: Gives tokenizer, processor, budgets and verl's way of joining tokens.
            tools: What stands in the prompt as tools.
        """
        self._loop = loop
        self._tools = tools or None
        self._messages: list[Message] = []
        self._has_log_probs = True
        self._prompt_budget = int(loop.rollout_config.prompt_length)
        self.budget = int(loop.rollout_config.response_length)
        """Tokens that the response may have."""
        self.prompt_ids: list[int] = []
        self.token_ids: list[int] = []
        """All tokens, those of the prompt included."""
        self.mask: list[int] = []
        """1 for each token of the response that the model wrote."""
        self.log_probs: list[float] = []
        self.images: list[Image.Image] = []

    @property
    def response_ids(self) -> list[int]:
        """All tokens after the prompt."""
        return self.token_ids[len(self.prompt_ids) :]

    @property
    def known_log_probs(self) -> list[float] | None:
        """A log probability for each token of the response; ``None`` if the server did not give them."""
        return self.log_probs if self._has_log_probs else None

    @property
    def tokens_left(self) -> int:
        """Tokens that the response may still grow by."""
        return self.budget - len(self.mask)

    async def begin(self, messages: list[Message]) -> None:
        """Render the prompt.

        Raises:
            TrainingSetupError: It is longer than the budget, or shows pictures to a model that takes none.
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
            # verl would cut off its beginning, and the rules of the game with it.
            raise TrainingSetupError(
                f"A prompt has {len(ids):,} tokens, the budget is {self._prompt_budget:,}: set "
                f"data.max_prompt_length={len(ids)}."
            )
        self._messages, self.images = shown, images
        self.prompt_ids, self.token_ids = ids, list(ids)

    async def add_answer(self, output: TokenOutput) -> None:
        """Take in what the model wrote."""
        log_probs = output.log_probs or None
        if self._has_log_probs and log_probs is None and output.token_ids:
            self._has_log_probs, self.log_probs = False, []
        with_log_probs = self._has_log_probs and log_probs is not None
        merged, self.mask, aligned = await self._loop.ct_merge_assistant_token(
            self.token_ids,
            output.token_ids,
            self.mask,
            self.log_probs if with_log_probs else None,
            assistant_logprobs=log_probs if with_log_probs else None,
        )
        self.token_ids = merged.token_ids
        if aligned is not None:
            self.log_probs = aligned

    def close_answer(self, end_id: int) -> None:
        """End an answer that was cut off, with a token that the model did not write and does not learn."""
        self.token_ids = [*self.token_ids, end_id]
        self.mask = [*self.mask, 0]
        if self._has_log_probs:
            self.log_probs = [*self.log_probs, 0.0]

    async def add_messages(self, said: Message, answered: list[Message], room: int) -> bool:
        """Go on with what the environment says to ``said``, if ``room`` tokens are left for the model then.

        Returns:
            Whether it fitted; if not, nothing was changed.

        Raises:
            TrainingSetupError: Pictures are shown to a model that takes none.
        """
        shown, images = self._readable(answered)
        before = [*self._messages, said]
        merged, mask, log_probs = await self._loop.ct_merge_context_msg(
            before,
            [*before, *shown],
            self.token_ids,
            self.mask,
            self.log_probs if self._has_log_probs else None,
            tools=self._tools,
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
        """Messages as chat templates take them, and the pictures in them."""
        if any(map(shows_picture, messages)):
            self._require_eyes()
        shown = [for_template(message) for message in messages]
        return shown, [picture for message in shown for picture in pictures_in(message)]

    def _require_eyes(self) -> None:
        if self._loop.processor is None or not self._loop.continuous_token_builder.supports_multimodal():
            raise TrainingSetupError(
                "The environment shows pictures, but the model takes none: curate with observation_mode 'text', or "
                "train a vision-language model."
            )
