"""Base class of all environments: Gymnasium's interface, implemented on top of a few small hooks.

A new environment is one file: a subclass of :class:`ChatEnv` with a class docstring, an :class:`EnvArguments`, its
tools, and the hooks ``task_prompt_text``, ``begin_episode``, ``act``, ``dump_state`` and ``load_state``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from verl_agent_env.envs.arguments import EnvArguments as EnvArguments
from verl_agent_env.envs.effects import Effects, Outcomes
from verl_agent_env.envs.renamed_hooks import former_name, support_former_names
from verl_agent_env.envs.reward_parts import INVALID_ACTION, parts_of, sum_of_parts
from verl_agent_env.envs.spaces import ObservationSpace, action_space_for
from verl_agent_env.envs.tool_env import ToolEnv
from verl_agent_env.envs.turn import Outcome, Turn
from verl_agent_env.errors import RenderModeError
from verl_agent_env.messages import (
    ToolCall,
    content_text,
    read_single_call,
    text_part,
    user_message,
    written_text,
)
from verl_agent_env.types import Action, Content
from verl_agent_env.types import Durability as Durability
from verl_agent_env.types import Execution as Execution
from verl_agent_env.types import Info, Observation

T = TypeVar("T")

_MAX_FAULTS = 20


class ChatEnv(ToolEnv):
    """Base class of environments whose observations and actions are chat messages.

    ``reset`` and ``step`` are Gymnasium's. An observation is a list of messages, an action is anything that
    :func:`verl_agent_env.messages.parse_action` reads. An invalid action never raises: the observation says what is
    wrong with it.

    Arguments, seed and actions determine an episode. ``reset()`` without a seed derives the next seed from the last
    one, so the first seed determines all later episodes too.
    """

    Arguments: ClassVar[type[EnvArguments]] = EnvArguments
    """Model of the keyword arguments; validated before anything is built."""
    execution: ClassVar[Execution] = "thread"
    """Where a server runs the environment. ``inline`` becomes ``compute`` for arguments of a high :meth:`cost_ms`."""
    deterministic: ClassVar[bool] = True
    """True if seed and actions determine the episode, so that it can be replayed."""

    durability: ClassVar[Durability | None] = None
    """How a cluster stores it; by default ``journal`` if it can be replayed, else ``snapshot`` if it has a state."""
    state_version: ClassVar[int] = 1
    """Version of the format of :meth:`dump_state`. Increment it whenever the same state is written differently or means
    something else: an episode continues only on workers of the same version."""

    code_version: ClassVar[str] = ""
    """Version of a package whose code is part of the environment's, and that its class does not derive from."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]
    observation_space = ObservationSpace()

    __slots__ = ("_effects", "_has_more_info", "_in_parts")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        support_former_names(cls)

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        """Build an environment; its first episode begins with ``reset``.

        Args:
            render_mode: Mode of ``render()``; one of ``metadata["render_modes"]``.
            kwargs: Fields of ``Arguments``; or ``arguments=`` an instance of it, shared between environments.

        Raises:
            InvalidEnvArgumentsError: An argument is unknown or out of its range.
            RenderModeError: The environment does not support this render mode.
        """
        super().__init__()
        arguments = kwargs.pop("arguments", None)
        if arguments is None:
            arguments = self.validate_arguments(kwargs)
        elif kwargs:
            raise self.invalid_arguments((["arguments"], f"come alone, not with {', '.join(kwargs)}"))
        self.arguments: EnvArguments = arguments
        if render_mode is not None:
            self._require_render_mode(render_mode)
            self.render_mode = render_mode
        if self.arguments.max_actions_per_turn > 1:
            self.action_space = action_space_for(self.tools, parallel=True)
        self._effects: Effects | None = None
        self._in_parts = self.arguments.reward_parts is not None or bool(
            self.reward_part_names(self.arguments)
        )
        self._has_more_info = self._in_parts or self.arguments.include_reading

    @classmethod
    def validate_arguments(cls, kwargs: Mapping[str, Any]) -> EnvArguments:
        """Validate keyword arguments into an instance of ``Arguments``, which environments can share.

        Raises:
            InvalidEnvArgumentsError: An argument is unknown or out of its range.
        """
        try:
            arguments = cls.Arguments.model_validate(dict(kwargs))
        except ValidationError as invalid:
            faults = invalid.errors(include_url=False, include_context=False, include_input=False)
            # A list can be wrong in each of its items; the first few faults suffice.
            shown = ((list(fault["loc"]), fault["msg"]) for fault in faults[:_MAX_FAULTS])
            raise cls.invalid_arguments(*shown) from None
        if arguments.reward_parts is not None:
            unknown = arguments.reward_parts.unknown_weight(cls.reward_part_names(arguments))
            if unknown is not None:
                raise cls.invalid_arguments((["reward_parts", "weights"], unknown))
        return arguments

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:  # noqa: ARG003 - subclasses use them
        """Estimate the milliseconds that one reset or step computes at most; the same on every machine.

        A server uses the estimate to choose where to run an environment, and how many to create in one call.

        Args:
            arguments: Result of :meth:`validate_arguments`.
        """
        return 1.0

    @classmethod
    def has_whole_state(cls, arguments: EnvArguments) -> bool:  # noqa: ARG003 - subclasses use them
        """Return true if :meth:`dump_state` gives all that the rest of an episode depends on; false if a part is elsewhere."""
        return True

    @classmethod
    def records_effects(cls, arguments: EnvArguments) -> bool:  # noqa: ARG003 - subclasses use them
        """Return true if every call to the outside that an episode makes goes through :meth:`outcome_of`.

        Actions and recorded outcomes then determine the episode, which a cluster keeps as a ``journal``.

        Args:
            arguments: Result of :meth:`validate_arguments`.
        """
        return False

    @classmethod
    def reward_part_names(cls, arguments: EnvArguments) -> Sequence[str]:  # noqa: ARG003
        """Return the names of the parts that the reward is made of; empty for a reward of one part, ``task``.

        An environment with parts names them in each :attr:`Outcome.parts`; ``info["reward_parts"]`` then holds them at
        every step.
        """
        return ()

    @classmethod
    def execution_for(cls, arguments: EnvArguments) -> Execution:  # noqa: ARG003 - see subclasses
        """Return where a server runs an environment with these arguments; by default :attr:`execution`."""
        return cls.execution

    @classmethod
    def task_lists(cls) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return the environment's own tasks by the name of their split; none if tasks are seeds.

        Each task is as a line of a task file: ``seed``, ``env_kwargs``, ``id``, all of which may be left out. See
        :mod:`verl_agent_env.envs.tasks`.
        """
        return {}

    # --- hooks: what an environment's author writes ---------------------------------------------------------

    def task_prompt_text(self) -> str:
        """Describe the task and the actions to the model."""
        raise NotImplementedError

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        """Set up a new episode; draw all randomness from ``self.rng``, ``self.np_random`` or ``self.episode_seed``.

        Raises:
            InvalidEnvArgumentsError: Arguments and ``options`` allow no episode; nothing was changed.
        """
        raise NotImplementedError

    def observe(self) -> Content:
        """Return the content of an observation of the current state."""
        return ""

    def initial_observation(self) -> Content:
        """Return the content of the first observation, without the task prompt."""
        return self.observe()

    def act(self, call: ToolCall) -> Outcome:
        """Carry out one call of a known tool whose required arguments are present and of the right type."""
        raise NotImplementedError

    def secrets(self) -> Sequence[str]:
        """Return texts that reveal the episode's solution; ``check-env`` searches the observations for them."""
        return ()

    def no_op_reward(self) -> float:
        """Return the reward of a turn without a valid action."""
        return 0.0

    def solution(self) -> list[Action] | None:
        """Return actions that lead from the current state to success; ``None`` if none are known.

        For demonstrations, curation and tests; never part of an observation or an info.
        """
        return None

    def sample_action(self, dice: random.Random) -> Action:
        """Sample an action, valid most of the time, as a random policy does; all randomness comes from ``dice``.

        For demonstrations with mistakes.
        """
        self.action_space.seed(dice.getrandbits(32))
        return self.action_space.sample()

    def layout(self) -> Any:
        """Return JSON values that identify what there is to solve in an episode that has just begun.

        Episodes of the same layout are the same problem, whatever their seeds are and however they are shown. ``None``, the
        default, identifies an episode by its state and its first observation.
        """
        return None

    def layout_arguments(self) -> dict[str, Any]:
        """Return keyword arguments that recreate the episode's layout in later versions too; empty if none do."""
        return {}

    def difficulty(self) -> float | None:
        """Return the difficulty of an episode that has just begun; ``None`` if it is unknown.

        By default the number of actions of :meth:`solution`. Comparable between episodes of one environment only.
        """
        solution = self.solution()
        return None if solution is None else float(len(solution))

    # Former names of hooks, for one version.
    look = former_name("look", observe)
    first_look = former_name("first_look", initial_observation)
    guess = former_name("guess", sample_action)
    idle_reward = former_name("idle_reward", no_op_reward)

    def draw(self, mode: str) -> Any:
        """Draw the environment: ``ansi`` and ``svg`` give text, ``rgb_array`` an array (height, width, 3) of uint8.

        Raises:
            RenderModeError: The environment has no such mode.
        """
        self._require_render_mode(mode)
        if mode != "ansi":
            raise NotImplementedError
        return content_text(self.observe())

    # --- Gymnasium's interface ------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode.

        Args:
            seed: From 0 to 2**63 - 1. By default the seed derived from the last episode's; a random one at first.
            options: Options of the environment; none by default.

        Returns:
            The first observation (one user message) and the info, which names the episode's ``seed``.

        Raises:
            InvalidEnvArgumentsError: The seed or an option is out of range; the running episode is unchanged.
        """
        self._start(seed, options)
        return self.first_observation(), {"seed": self._seed}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out one action.

        Returns:
            Observation (a tool message for each tool call, else one user message), reward, terminated, truncated,
            and the info: ``num_steps``, ``action_is_valid``, ``action_is_effective``, ``success``.

        Raises:
            EpisodeNotStartedError: ``reset`` was never called.
            EpisodeEndedError: The episode has ended.
        """
        if self._ended or self._seed is None:
            self._require_running()
        call = read_single_call(action, self._tools_by_name)
        if call is None:
            calls = self._calls_of(self.read_action(action))
            if len(calls) != 1:
                return self.take_turn(calls, action)
            call = calls[0]
        # As take_turn, for the one call of nearly every action.
        outcome = self._carry_out(call)
        content, fault, call_id = outcome.content, outcome.fault, call.id
        if fault is not None:
            content = self._show(outcome)
        elif content is None:
            content = self.observe()
        message = (
            {"role": "user", "content": content}
            if call_id is None
            else {"role": "tool", "tool_call_id": call_id, "content": content}
        )
        return self._finish([message], outcome.reward, outcome, fault is None, outcome.effective, action)

    def take_turn(
        self, calls: list[ToolCall], action: object = None
    ) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the calls of one action, as :meth:`step` does.

        Args:
            calls: Result of :meth:`calls_of`.
            action: The action itself, for what depends on how it is written (``reward_parts``, ``include_reading``).

        Raises:
            EpisodeNotStartedError, EpisodeEndedError: In the same cases as :meth:`step`.
        """
        self._require_running()
        turn = Turn(calls)
        for call in turn.calls:
            note = turn.refusal(self._steps, self.arguments.max_steps, self.arguments.max_actions_per_turn)
            if note is None:
                outcome = self._carry_out(call)
                turn.add(call, outcome, self._show(outcome))
            else:
                turn.refuse(call, note)
        last = turn.outcomes[-1]
        return self._finish(
            turn.messages(), turn.reward, last, turn.valid, turn.effective, action, turn.outcomes
        )

    def render(self) -> Any:
        """Draw the environment in its render mode; ``None`` without one."""
        return None if self.render_mode is None else self.draw(self.render_mode)

    def close(self) -> None:
        """Release resources of the environment; nothing by default."""

    # --- for servers and trainers ---------------------------------------------------------------------------

    def task_prompt(self) -> str:
        """Return the task prompt: that of the arguments, else the environment's own."""
        replaced = self.arguments.task_prompt
        return replaced if replaced is not None else self.task_prompt_text()

    def first_observation(self) -> Observation:
        """Return the first observation again; valid only as long as no step followed the ``reset``."""
        content = self.initial_observation()
        if self.arguments.include_task_prompt:
            prompt = self.task_prompt()
            content = (
                f"{prompt}\n\n{content}" if isinstance(content, str) else [text_part(prompt + "\n"), *content]
            )
        return [user_message(content)]

    # --- calls to the outside -------------------------------------------------------------------------------

    async def outcome_of(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call to the outside: a model, a program, another server.

        Its outcome, JSON, is recorded with the step; a replay gives the outcome again and makes no call. The calls within
        one tool call of an action are told apart by their order.
        """
        return await (call() if self._effects is None else self._effects.outcome_of(call))

    def outcome_of_blocking(self, call: Callable[[], T]) -> T:
        """Make a call to the outside that blocks the thread, as :meth:`outcome_of`."""
        return call() if self._effects is None else self._effects.outcome_of_blocking(call)

    @property
    def is_replaying(self) -> bool:
        """True while recorded outcomes take the place of calls to the outside, which need no preparation then."""
        return self._effects is not None and self._effects.are_given

    def begin_effects(self, given: Outcomes | None) -> None:
        """Record the outcomes of the calls that the next step or reset makes, or give it these instead."""
        self._effects = Effects(given)

    def take_effects(self) -> Outcomes:
        """Return the outcomes of the calls that were made since :meth:`begin_effects`, and record no more."""
        effects, self._effects = self._effects, None
        return {} if effects is None else effects.made

    # --- inner workings -------------------------------------------------------------------------------------

    def _start(self, seed: int | None, options: dict[str, Any] | None) -> None:
        with self._new_episode(seed):
            self.begin_episode(options or {})

    def _require_render_mode(self, mode: str) -> None:
        supported = self.metadata["render_modes"]
        if mode not in supported:
            raise RenderModeError(mode, list(supported))

    def _carry_out(self, call: ToolCall) -> Outcome:
        self._steps += 1
        # Skip the checks for a call without arguments of a tool that needs none, such as the moves of a grid world.
        name, arguments, _, fault = call
        if arguments or fault is not None or name not in self._plain_tools:
            fault = self._fault_of(call)
            if fault is not None:
                return self._invalid(fault, self.no_op_reward(), None)
        outcome = self.act(call)
        return outcome if outcome.fault is None else self._penalized(outcome)

    def _penalized(self, outcome: Outcome) -> Outcome:
        """Apply the consequences of an invalid action to an outcome that has a fault."""
        if outcome.fault is None:
            return outcome
        arguments = self.arguments
        return outcome._replace(
            reward=outcome.reward + arguments.invalid_action_reward,
            parts=(
                {**parts_of(outcome), INVALID_ACTION: arguments.invalid_action_reward}
                if self._in_parts
                else None
            ),
            terminated=outcome.terminated or arguments.invalid_action_ends_episode,
            effective=False,
        )

    def _invalid(self, fault: str, reward: float, content: Content | None) -> Outcome:
        return self._penalized(Outcome(content, reward, effective=False, fault=fault))

    def _show(self, outcome: Outcome) -> Content:
        content = outcome.content if outcome.content is not None else self.observe()
        if outcome.fault is None:
            return content
        advice = f"Invalid action: {outcome.fault}{self._tool_hint()}"
        if not content:
            return advice
        return f"{advice}\n{content}" if isinstance(content, str) else [text_part(advice), *content]

    def _finish(
        self,
        observation: Observation,
        reward: float,
        last: Outcome,
        valid: bool,
        effective: bool,
        action: object = None,
        outcomes: Sequence[Outcome] = (),
    ) -> tuple[Observation, float, bool, bool, Info]:
        arguments = self.arguments
        terminated = last.terminated
        truncated = self._steps >= arguments.max_steps and not terminated
        self._ended = terminated or truncated
        info: Info = {
            "num_steps": self._steps,
            "action_is_valid": valid,
            "action_is_effective": effective,
            "success": last.success,
        }
        if self._has_more_info:
            if self._in_parts:
                parts = sum_of_parts(outcomes or (last,))
                if arguments.reward_parts is not None:
                    parts = arguments.reward_parts.weighted(parts, written_text(action))
                # The sum, so that the parts are exactly the reward.
                reward, info["reward_parts"] = sum(parts.values()), parts
            if arguments.include_reading:
                info["reading"] = self.reading_of(action)
        return observation, reward, terminated, truncated, info
