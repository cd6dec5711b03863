"""The model's side of one conversation: the question, the reading of the answer, and the outcome that the model is told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.integrations.rollout.template_messages import with_names
from verl_agent_env.integrations.verl.rollout.answers import PROMPT_TAIL
from verl_agent_env.integrations.verl.rollout.tally import RolloutTally
from verl_agent_env.integrations.verl.rollout.transcript import Transcript
from verl_agent_env.types import Action, Message
from verl_agent_env.wire.model_notes import NO_NOTES, ModelNotes, with_notes

if TYPE_CHECKING:
    from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop
    from verl_agent_env.messages import ActionFormat


class Player:
    """A model that plays an episode, or one seat of it, within the budgets of the rollout."""

    def __init__(
        self,
        loop: EnvAgentLoop,
        spec: EpisodeSpec,
        tools: list[dict[str, Any]],
        sampling_params: dict[str, Any],
        request_id: str,
    ) -> None:
        """Create a player that has heard nothing.

        Args:
            loop: Agent loop with the model's server, tokenizer and budgets.
            spec: The episode.
            tools: Tools in the prompt.
            sampling_params: verl's.
            request_id: Id of the conversation, which routes all its turns to one server.
        """
        self._loop = loop
        self._tools = tools
        self._sampling_params = sampling_params
        self._request_id = request_id
        self._format: ActionFormat = format_of(spec)
        self._system_prompt = spec.system_prompt or loop.options.system_prompt
        self._said: Message = {}
        self._notes = NO_NOTES
        """Of the last answer: its tokens, and the step of the weights that wrote it, for whoever reads the episode."""
        self.tally = RolloutTally()
        self.tally.transcript = Transcript(loop, tools)

    @property
    def has_begun(self) -> bool:
        """True if the player has heard the beginning."""
        return bool(self.tally.transcript.prompt_ids)

    async def begin(self, observation: list[Message]) -> None:
        """Render the prompt.

        Raises:
            TrainingSetupError: It does not fit the model or the budget.
        """
        system = [{"role": "system", "content": self._system_prompt}] if self._system_prompt else []
        await self.tally.transcript.begin([*system, *observation])

    async def act(self) -> Action | None:
        """Ask the model for its next action; ``None`` if its answer was cut off, which is no action."""
        tally = self.tally
        asked = tally.transcript.token_ids[-PROMPT_TAIL:]
        if not await self._ask():
            tally.ended_by = "tokens"
            return None
        action, self._said = await self._loop.reader.read(
            tally.last_answer, tally.num_turns, self._tools, self._format, asked
        )
        return with_notes(action, self._notes)

    async def hear(self, observation: list[Message]) -> None:
        """Add what came of the last action, if the budgets allow another turn."""
        tally = self.tally
        max_turns = self._loop.max_turns
        if max_turns is not None and tally.num_turns >= max_turns:
            tally.ended_by = "turns"
        elif await tally.transcript.add_messages(
            self._said, with_names(observation, self._said), self._loop.options.min_tokens_per_turn
        ):
            tally.num_messages += 1
        else:
            tally.ended_by = "tokens"

    async def _ask(self) -> bool:
        """Have the model write its next answer.

        Returns:
            True if the answer can be played: not if the response budget cut it off.
        """
        loop, transcript = self._loop, self.tally.transcript
        limit = min(transcript.tokens_left, loop.options.max_tokens_per_turn or transcript.tokens_left)
        params = {**self._sampling_params, "max_tokens": limit}
        if loop.reader.stop_token_ids:
            stops = [*(params.get("stop_token_ids") or []), *loop.reader.stop_token_ids]
            params["stop_token_ids"] = sorted(set(stops))
        num_asked, began = len(transcript.token_ids), time.perf_counter()
        output = await loop.server_manager.generate(
            request_id=self._request_id,
            prompt_ids=transcript.token_ids,
            sampling_params=params,
            image_data=transcript.images or None,
        )
        self.tally.note_output(output, time.perf_counter() - began)
        step = output.extra_fields.get("max_global_steps", output.extra_fields.get("global_steps"))
        self._notes = ModelNotes(num_asked, len(output.token_ids), step)
        transcript.add_answer(output)
        ends = bool(output.token_ids) and output.token_ids[-1] in loop.end_ids
        if ends or len(output.token_ids) < limit:
            return True
        if transcript.tokens_left < 1:
            return False
        transcript.close_answer(loop.tokenizer.eos_token_id)
        return True


def format_of(spec: EpisodeSpec) -> ActionFormat:
    """Return the text formats that the environment reads, from its arguments alone; presets are not looked up."""
    given = spec.env_kwargs.get("action_format", "auto")
    return tuple(given) if isinstance(given, list) else given
