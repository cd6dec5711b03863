"""Base class of environments that await: tools over a network, browsers, sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from verl_agent_env.envs.base import ChatEnv, Execution
from verl_agent_env.envs.effects import carrying_out
from verl_agent_env.envs.loop_thread import wait_for
from verl_agent_env.envs.turn import Outcome, Turn
from verl_agent_env.messages import ToolCall
from verl_agent_env.types import Action, Info, Observation


class AsyncChatEnv(ChatEnv):
    """Base class of environments whose reset, step and close are coroutines.

    The hooks ``begin_episode_async`` and ``act_async`` replace ``begin_episode`` and ``act``. The calls of one action run
    concurrently; all of them finish, even if one ends the episode.

    A server awaits ``areset``, ``astep`` and ``aclose`` on its own event loop. ``reset``, ``step`` and ``close`` do the
    same on one event loop of the process, in its own thread. Use an environment in one of these two ways only.
    """

    execution: ClassVar[Execution] = "async"
    deterministic: ClassVar[bool] = False
    """False by default: tools have side effects, which a replay would repeat. An environment without any sets it to true."""

    __slots__ = ()

    # --- hooks: what an environment's author writes ---------------------------------------------------------

    async def begin_episode_async(self, options: Mapping[str, Any]) -> None:
        """Set up a new episode; the coroutine for :meth:`ChatEnv.begin_episode`."""
        raise NotImplementedError

    async def act_async(self, call: ToolCall) -> Outcome:
        """Carry out one call; the coroutine for :meth:`ChatEnv.act`. Other calls of the same action may run concurrently."""
        raise NotImplementedError

    async def close_async(self) -> None:
        """Release resources of the environment; nothing by default."""

    # --- Gymnasium's interface, awaited ---------------------------------------------------------------------

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode; the coroutine for :meth:`ChatEnv.reset`."""
        with self._new_episode(seed):
            await self.begin_episode_async(options or {})
        return self.first_observation(), {"seed": self._seed}

    async def astep(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out one action; the coroutine for :meth:`ChatEnv.step`. Messages are in the order of the calls."""
        self._require_running()
        return await self.atake_turn(self._calls_of(self.read_action(action)), action)

    async def atake_turn(
        self, calls: list[ToolCall], action: object = None
    ) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the calls of one action; the coroutine for :meth:`ChatEnv.take_turn`."""
        self._require_running()
        turn = Turn(calls)
        arguments = self.arguments
        count = min(arguments.max_actions_per_turn, arguments.max_steps - self._steps)
        begun = turn.calls[:count]
        for call, outcome in zip(begun, await self._carry_out_all(begun), strict=True):
            turn.add(call, outcome, self._show(outcome))
        for call in turn.calls[count:]:
            note = turn.refusal(self._steps, arguments.max_steps, arguments.max_actions_per_turn)
            turn.refuse(call, note or "Not carried out.")
        last = next((outcome for outcome in turn.outcomes if outcome.terminated), turn.outcomes[-1])
        return self._finish(
            turn.messages(), turn.reward, last, turn.valid, turn.effective, action, turn.outcomes
        )

    async def aclose(self) -> None:
        """Release resources of the environment; the coroutine for :meth:`ChatEnv.close`."""
        await self.close_async()

    async def ahand_over(self) -> None:
        """Release what this process holds of an episode that another one goes on with, or that was only played again.

        By default all, as :meth:`aclose`. What the episode has elsewhere, such as a session that can be resumed, stays.
        """
        await self.aclose()

    # --- Gymnasium's interface ------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        return wait_for(self.areset(seed=seed, options=options))

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        return wait_for(self.astep(action))

    def take_turn(
        self, calls: list[ToolCall], action: object = None
    ) -> tuple[Observation, float, bool, bool, Info]:
        return wait_for(self.atake_turn(calls, action))

    def close(self) -> None:
        wait_for(self.aclose())

    # --- inner workings -------------------------------------------------------------------------------------

    async def _carry_out_all(self, calls: list[ToolCall]) -> list[Outcome]:
        if len(calls) == 1:
            return [await self._carry_out_numbered(1, calls[0])]
        # Wait for all calls before one raises, so that none keeps running after the step.
        outcomes = await asyncio.gather(
            *(self._caught(number, call) for number, call in enumerate(calls, 1)), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    async def _caught(self, number: int, call: ToolCall) -> Outcome | SystemExit:
        try:
            return await self._carry_out_numbered(number, call)
        except SystemExit as leaving:
            # Raised inside a task, SystemExit would stop the event loop.
            return leaving

    async def _carry_out_numbered(self, number: int, call: ToolCall) -> Outcome:
        """Carry out a call of the action; what it calls outside is recorded under its number, from 1."""
        with carrying_out(number):
            return await self._carry_out_async(call)

    async def _carry_out_async(self, call: ToolCall) -> Outcome:
        self._steps += 1
        fault = self._fault_of(call)
        if fault is not None:
            return self._invalid(fault, self.no_op_reward(), None)
        return self._penalized(await self.act_async(call))
