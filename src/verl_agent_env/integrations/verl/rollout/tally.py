"""The tally of an episode: rewards, turns, the way it ended, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from verl_agent_env.envs.reward_parts import TASK
from verl_agent_env.types import StepResult

if TYPE_CHECKING:
    from verl.workers.rollout.replica import TokenOutput

    from verl_agent_env.integrations.verl.rollout.transcript import Transcript

EndedBy = Literal["terminated", "truncated", "turns", "tokens", "others"]
"""``terminated`` and ``truncated`` by the environment; ``turns`` and ``tokens`` by a budget of the rollout; ``others`` where that
was the budget of another seat."""

_ADDED_UP = ("spec_num_draft_tokens", "spec_num_accepted_tokens", "spec_num_verify_steps")


class RolloutTally:
    """Counts rewards, turns and cost of one episode."""

    transcript: Transcript

    def __init__(self) -> None:
        self.ended_by: EndedBy | None = None
        self.turn_rewards: list[float] = []
        self.turn_ends: list[int] = []
        """Length of the response after each turn's answer, whose last token is at this index minus 1."""
        self.num_messages = 1
        """Number of messages as verl counts them: the prompt, each answer, each reaction of the environment."""
        self.valid_turns = 0
        self.success = False
        self._unturned_reward = 0.0
        """Reward of a seat before it has acted."""
        self._parts: dict[str, float] = {}
        self.generated_s = 0.0
        self.num_preempted = -1
        self.last_answer: list[int] = []
        self._routed_experts: Any = None
        self._server_fields: dict[str, Any] = {}

    @property
    def num_turns(self) -> int:
        """Number of answers that reached the environment."""
        return len(self.turn_rewards)

    @property
    def reward(self) -> float:
        """Reward of the whole episode."""
        return float(sum(self.turn_rewards)) + self._unturned_reward

    def note(self, result: StepResult, response_length: int) -> None:
        """Add the result of a turn."""
        self.turn_rewards.append(float(result.reward))
        self.turn_ends.append(response_length)
        self.valid_turns += bool(result.info.get("action_is_valid", True))
        self.success = bool(result.info.get("success", False))
        for name, value in result.info.get("reward_parts", {}).items():
            self._parts[name] = self._parts.get(name, 0.0) + value
        if result.terminated:
            self.ended_by = "terminated"
        elif result.truncated:
            self.ended_by = "truncated"

    def note_other(self, result: StepResult, seat: int) -> None:
        """Add what another seat's action was worth to this seat: a part of the task, which counts for the last turn."""
        reward = float(result.info["rewards"][seat])
        if "reward_parts" in result.info:
            self._parts[TASK] = self._parts.get(TASK, 0.0) + reward
        if self.turn_rewards:
            self.turn_rewards[-1] += reward
        else:
            self._unturned_reward += reward

    def note_output(self, output: TokenOutput, seconds: float) -> None:
        """Add what the model's server reports about an answer."""
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
        # The first turn has the oldest weights, the last one the newest.
        newest = output.extra_fields.get("max_global_steps")
        if newest is not None:
            self._server_fields["max_global_steps"] = newest
        for name in _ADDED_UP:
            if name in output.extra_fields and name in self._server_fields:
                self._server_fields[name] = int(self._server_fields[name]) + int(output.extra_fields[name])

    def share_server_fields(self, other: RolloutTally) -> None:
        """Take over what the model's server reported in the same game, if nothing was asked of it here.

        verl needs the version of the weights in each sample.
        """
        if not self._server_fields:
            self._server_fields = dict(other._server_fields)

    def routed_experts_of(self, length: int) -> Any:
        """Return the experts of the first ``length`` tokens; None if the model has no experts."""
        return None if self._routed_experts is None else self._routed_experts[:length]

    def extra_fields(
        self, env_s: float, restarts: int, retries: int, reward_parts: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the fields that verl keeps besides the tokens; ``reward_extra_info`` becomes validation metrics.

        Args:
            env_s: Seconds spent in calls on the environment.
            restarts, retries: Numbers of lost environments, and of calls that were made again.
            reward_parts: Parts of the reward to report; 0 for those that the environment does not have.
        """
        turns = self.num_turns
        return {
            **self._server_fields,
            "turn_scores": self.turn_rewards,
            "turn_ends": self.turn_ends,
            "tool_rewards": [],
            "ended_by": self.ended_by,
            # The same keys in each sample, and numbers only: verl makes columns of them.
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
                **{f"part/{name}": self._parts.get(name, 0.0) for name in reward_parts},
            },
        }
