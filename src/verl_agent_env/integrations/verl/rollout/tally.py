"""What is known of an episode so far: its rewards, its turns, how it ended, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from verl_agent_env.types import StepResult

if TYPE_CHECKING:
    from verl.workers.rollout.replica import TokenOutput

    from verl_agent_env.integrations.verl.rollout.transcript import Transcript

EndedBy = Literal["terminated", "truncated", "turns", "tokens"]
"""``terminated`` and ``truncated`` by the environment; ``turns`` and ``tokens`` by a budget of the rollout."""

_ADDED_UP = ("spec_num_draft_tokens", "spec_num_accepted_tokens", "spec_num_verify_steps")


class RolloutTally:
    """The tally of one episode."""

    transcript: Transcript

    def __init__(self) -> None:
        self.ended_by: EndedBy | None = None
        self.turn_rewards: list[float] = []
        self.turn_ends: list[int] = []
        """Length of the response after each turn's answer: its last token is the one before."""
        self.num_messages = 1
        """Of the conversation as verl counts them: what came first, each answer, and what was said to it."""
        self.valid_turns = 0
        self.success = False
        self.generated_s = 0.0
        self.num_preempted = -1
        self.last_answer: list[int] = []
        self._routed_experts: Any = None
        self._server_fields: dict[str, Any] = {}

    @property
    def num_turns(self) -> int:
        """Answers that the environment got."""
        return len(self.turn_rewards)

    @property
    def reward(self) -> float:
        """Of the whole episode."""
        return float(sum(self.turn_rewards))

    def note(self, result: StepResult, response_length: int) -> None:
        """Take in what a turn led to."""
        self.turn_rewards.append(float(result.reward))
        self.turn_ends.append(response_length)
        self.valid_turns += bool(result.info.get("action_is_valid", True))
        self.success = bool(result.info.get("success", False))
        if result.terminated:
            self.ended_by = "terminated"
        elif result.truncated:
            self.ended_by = "truncated"

    def note_output(self, output: TokenOutput, seconds: float) -> None:
        """Take in what the model's server says about an answer."""
        self.last_answer = list(output.token_ids)
        self.num_messages += 1
        self.generated_s += seconds
        if output.num_preempted is not None:
            self.num_preempted = max(self.num_preempted, 0) + output.num_preempted
        if output.routed_experts is not None:
            self._routed_experts = output.routed_experts
        if not self._server_fields:
            self._server_fields = dict(output.extra_fields)
            return
        # The oldest weights are those of the first turn, the newest those of the last one.
        newest = output.extra_fields.get("max_global_steps")
        if newest is not None:
            self._server_fields["max_global_steps"] = newest
        for name in _ADDED_UP:
            if name in output.extra_fields and name in self._server_fields:
                self._server_fields[name] = int(self._server_fields[name]) + int(output.extra_fields[name])

    def routed_experts_of(self, length: int) -> Any:
        """The experts of the first ``length`` tokens, of a model that has some."""
        return None if self._routed_experts is None else self._routed_experts[:length]

    def extra_fields(self, env_s: float, restarts: int, retries: int) -> dict[str, Any]:
        """What verl keeps beside the tokens; ``reward_extra_info`` appears among its validation metrics."""
        turns = self.num_turns
        return {
            **self._server_fields,
            "turn_scores": self.turn_rewards,
            "turn_ends": self.turn_ends,
            "tool_rewards": [],
            "ended_by": self.ended_by,
            # Each sample has the same keys, and numbers only: verl makes columns of them.
            "reward_extra_info": {
                "score": self.reward,
                "success": float(self.success),
                "turns": float(turns),
                "valid_turns": self.valid_turns / turns if turns else 0.0,
                "out_of_turns": float(self.ended_by == "turns"),
                "out_of_tokens": float(self.ended_by == "tokens"),
                "env_seconds": env_s,
                "env_restarts": float(restarts),
                "env_retries": float(retries),
            },
        }
