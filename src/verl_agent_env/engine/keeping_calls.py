"""Calls on environments whose episodes are kept."""

from __future__ import annotations

from typing import Any

from verl_agent_env.engine.calls import Calls
from verl_agent_env.engine.episodes.collector import EpisodeCollector
from verl_agent_env.engine.lifecycle import Lifecycle
from verl_agent_env.engine.live_env import LiveEnv
from verl_agent_env.engine.marks import Mark
from verl_agent_env.engine.open_episode import STEPS_BETWEEN_CHECKS
from verl_agent_env.wire.results import EncodedStep

_LAST = STEPS_BETWEEN_CHECKS - 1


class KeepingCalls(Calls):
    """:class:`Calls` that also note each step. A class of its own, so that a host that keeps no episodes does not even ask."""

    def __init__(self, lifecycle: Lifecycle, collector: EpisodeCollector) -> None:
        super().__init__(lifecycle)
        self._collector = collector

    def _run_step(
        self, instance: LiveEnv, action: Any, encoded: bytes, identity: bytes, operation: bytes
    ) -> EncodedStep:
        answer = super()._run_step(instance, action, encoded, identity, operation)
        noted = instance.open_episode
        if noted is not None:
            # As _note_step_of, without a call.
            steps = noted.steps
            steps.append((encoded, answer, instance.last_used))
            if len(steps) & _LAST == _LAST:
                self._collector.check_size(noted)
        return answer

    async def _run_step_offloaded(
        self, instance: LiveEnv, action: Any, encoded: bytes, identity: bytes
    ) -> tuple[bytes, EncodedStep, Mark]:
        run = await super()._run_step_offloaded(instance, action, encoded, identity)
        self._note_step_of(instance, encoded, run[1])
        return run

    def _note_step_of(self, instance: LiveEnv, encoded: bytes, answer: EncodedStep) -> None:
        """Note a step; that of an environment which has moved meanwhile is forgotten with the environment."""
        noted = instance.open_episode
        if noted is not None:
            noted.steps.append((encoded, answer, instance.last_used))
            if len(noted.steps) & _LAST == _LAST:
                self._collector.check_size(noted)
