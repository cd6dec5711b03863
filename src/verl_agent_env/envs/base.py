"""Base class of all environments: Gymnasium's interface, implemented on top of a few small hooks.

A new environment is one file: a subclass of :class:`ChatEnv` with a class docstring, an :class:`EnvArguments`, its
tools, and the hooks ``task_prompt_text``, ``begin_episode``, ``act``, ``dump_state`` and ``load_state``.
"""

from __future__ import annotations

import contextlib
import operator
import random
import secrets
import zlib
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import gymnasium
import numpy as np
import orjson
from pydantic import ValidationError

from verl_agent_env.envs.arguments import EnvArguments as EnvArguments
from verl_agent_env.envs.effects import Effects, Outcomes
from verl_agent_env.envs.renamed_hooks import former_name, support_former_names
from verl_agent_env.envs.reward_parts import INVALID_ACTION, parts_of, sum_of_parts
from verl_agent_env.envs.rng import (
    EpisodeRandom,
    generator_from_state,
    parse_integers,
    stringify_integers,
)
from verl_agent_env.envs.spaces import ActionSpace, ObservationSpace, action_space_for
from verl_agent_env.envs.turn import Outcome, Turn
from verl_agent_env.errors import (
    EpisodeEndedError,
    EpisodeNotStartedError,
    InvalidEnvArgumentsError,
    RenderModeError,
)
from verl_agent_env.messages import (
    FORMATS,
    ParsedAction,
    Tool,
    ToolCall,
    content_text,
    parse_action,
    read_single_call,
    stated_answers,
    text_part,
    user_message,
    written_text,
)
from verl_agent_env.seeds import MAX_SEED, following_seed
from verl_agent_env.types import Action, Content
from verl_agent_env.types import Durability as Durability
from verl_agent_env.types import Execution as Execution
from verl_agent_env.types import Info, Observation

T = TypeVar("T")

SNAPSHOT_FORMAT = 1
_MAX_FAULTS = 20


class ChatEnv(gymnasium.Env[Observation, Action]):
    """Base class of environments whose observations and actions are chat messages.

    ``reset`` and ``step`` are Gymnasium's. An observation is a list of messages, an action is anything that
    :func:`verl_agent_env.messages.parse_action` reads. An invalid action never raises: the observation says what is
    wrong with it.

    Arguments, seed and actions determine an episode. ``reset()`` without a seed derives the next seed from the last
    one, so the first seed determines all later episodes too.
    """

    env_name: ClassVar[str] = ""
    """Registered name, such as ``verl_env/sokoban-v0``."""
    Arguments: ClassVar[type[EnvArguments]] = EnvArguments
    """Model of the keyword arguments; validated before anything is built."""
    tools: ClassVar[tuple[Tool, ...]] = ()
    """Tools that the model may call."""
    word_aliases: ClassVar[Mapping[str, str]] = {}
    """Names of tools by lower-case words that name them in plain text."""
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
    action_space = ActionSpace((), parallel=False)

    _tools_by_name: ClassVar[dict[str, Tool]] = {}
    _plain_tools: ClassVar[frozenset[str]] = frozenset()

    __slots__ = ("_effects", "_ended", "_in_parts", "_numpy_rng", "_rng", "_seed", "_steps", "arguments")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._tools_by_name = {tool.name: tool for tool in cls.tools}
        cls._plain_tools = _plain(cls.tools)
        cls.action_space = action_space_for(cls.tools, parallel=False)
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
        self._seed: int | None = None
        self._rng: EpisodeRandom | None = None
        self._numpy_rng: np.random.Generator | None = None
        self._effects: Effects | None = None
        self._steps = 0
        self._ended = False
        self._in_parts = self.arguments.reward_parts is not None or bool(
            self.reward_part_names(self.arguments)
        )

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
    def invalid_arguments(cls, *faults: tuple[list[int | str], str]) -> InvalidEnvArgumentsError:
        """Make the error for faulty arguments from pairs of location and sentence."""
        errors = [{"loc": loc, "msg": message} for loc, message in faults]
        return InvalidEnvArgumentsError(cls.env_name or cls.__name__, errors)

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:  # noqa: ARG003 - subclasses use them
        """Estimate the milliseconds that one reset or step computes at most; the same on every machine.

        A server uses the estimate to choose where to run an environment, and how many to create in one call.

        Args:
            arguments: Result of :meth:`validate_arguments`.
        """
        return 1.0

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

    def dump_state(self) -> Any:
        """Return the episode's state as small JSON values, without the seed, step count and random generators of the base."""
        raise NotImplementedError

    def load_state(self, state: Any) -> None:
        """Set the state that :meth:`dump_state` returned."""
        raise NotImplementedError

    def call_from_word(self, word: str) -> ToolCall:
        """Translate a move written in plain text into a call; a call with a fault if it is no move.

        A sentence that states an answer counts as the move that it names: "The answer is up." Depends on the word alone:
        a replayed episode does not translate again.
        """
        tool = self._tool_of(word)
        if tool is None:
            # The whole stated answer has to be the move: "left to the user's choice" is none.
            tool = next((self._tool_of(answer) for answer in stated_answers(word)[:1]), None)
        if tool is not None:
            return ToolCall(tool, {})
        shown = word if len(word) <= 40 else word[:40] + "…"
        return ToolCall("", {}, None, f"'{shown}' is not an action.")

    def call_from_marked_word(self, word: str) -> ToolCall:
        """Translate a move that the text marks as its answer; by default as :meth:`call_from_word`."""
        return self.call_from_word(word)

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
        if call is not None:
            outcome = self._carry_out(call)
            content, fault = outcome.content, outcome.fault
            if fault is not None:
                content = self._show(outcome)
            elif content is None:
                content = self.observe()
            message = {"role": "tool", "tool_call_id": call.id, "content": content}
            return self._finish([message], outcome.reward, outcome, fault is None, outcome.effective, action)
        return self.take_turn(self._calls_of(self.read_action(action)), action)

    def take_turn(
        self, calls: list[ToolCall], action: object = None
    ) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the calls of one action, as :meth:`step` does.

        Args:
            calls: Result of :meth:`calls_of`.
            action: The action itself, for rewards that depend on how it is written (``reward_parts``).

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

    @property
    def episode_seed(self) -> int:
        """Seed of the episode.

        Raises:
            EpisodeNotStartedError: ``reset`` was never called.
        """
        if self._seed is None:
            raise EpisodeNotStartedError
        return self._seed

    @property
    def num_steps(self) -> int:
        """Number of moves made in this episode."""
        return self._steps

    @property
    def ended(self) -> bool:
        """True if the episode was terminated or truncated."""
        return self._ended

    @property
    def allow_parallel_tool_calls(self) -> bool:
        """True if one action may hold several tool calls."""
        return self.arguments.max_actions_per_turn > 1

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

    def read_action(self, action: object) -> ParsedAction:
        """Read an action as :meth:`step` does, without carrying it out."""
        arguments = self.arguments
        max_calls = max(arguments.max_calls_per_turn, arguments.max_actions_per_turn)
        return parse_action(action, self._tools_by_name, arguments.action_format, self._steps, max_calls)

    def checked_calls(self, parsed: ParsedAction) -> list[ToolCall]:
        """Return the calls of a read action, at least one, each with the fault that makes it invalid."""
        return [call._replace(fault=self._fault_of(call)) for call in self._calls_of(parsed)]

    def calls_of(self, action: Action) -> list[ToolCall]:
        """Read an action into its calls, at least one, without carrying them out.

        Invalid calls keep their id and their fault only. ``step(action)`` is ``take_turn(calls_of(action))``, so the calls
        suffice to replay a step.
        """
        return [
            call if call.fault is None else ToolCall("", {}, call.id, call.fault)
            for call in self.checked_calls(self.read_action(action))
        ]

    def snapshot(self) -> bytes:
        """Return the whole episode in a few hundred bytes of JSON: state, random generators, seed, step count.

        Raises:
            EpisodeNotStartedError: ``reset`` was never called.
        """
        numpy_state = None if self._numpy_rng is None else self._numpy_rng.bit_generator.state
        document = [
            SNAPSHOT_FORMAT,
            self.episode_seed,
            self._steps,
            self._ended,
            None if self._rng is None else self._rng.state(),
            stringify_integers(numpy_state),
            self.dump_state(),
        ]
        return orjson.dumps(document)

    def restore(self, snapshot: bytes) -> None:
        """Restore a :meth:`snapshot` of an environment with the same arguments.

        Raises:
            ValueError: The bytes are not a snapshot of this format.
        """
        document = orjson.loads(snapshot)
        if not isinstance(document, list) or len(document) != 7 or document[0] != SNAPSHOT_FORMAT:
            raise ValueError(f"not a snapshot of format {SNAPSHOT_FORMAT}")
        _, seed, steps, ended, rng, numpy_state, state = document
        self.load_state(state)
        self._seed, self._steps, self._ended = seed, steps, ended
        self._rng = None if rng is None else EpisodeRandom.from_state(rng)
        self._numpy_rng = None if numpy_state is None else generator_from_state(parse_integers(numpy_state))

    def state_digest(self) -> int:
        """Return a 32-bit checksum of the episode's state, independent of how the state is shown.

        Raises:
            Exception: :meth:`dump_state` failed, or its result is not JSON.
        """
        rng = self._rng
        state = (self._steps, self._ended, None if rng is None else rng.low_bits, self.dump_state())
        return zlib.crc32(orjson.dumps(state))

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

    # --- randomness: two views of one seed ------------------------------------------------------------------

    @property
    def rng(self) -> EpisodeRandom:
        """Small, fast random generator of the episode; its ``random()`` gives the same stream as that of ``np_random``."""
        if self._rng is None:
            self._rng = EpisodeRandom.from_seed(self.episode_seed)
        return self._rng

    @property
    def _np_random(self) -> np.random.Generator:
        # Gymnasium keeps a generator here; ours takes a kilobyte and is made on first use.
        if self._numpy_rng is None:
            self._numpy_rng = np.random.Generator(np.random.PCG64(self._seed))
        return self._numpy_rng

    @_np_random.setter
    def _np_random(self, value: np.random.Generator) -> None:
        self._numpy_rng = value

    @property
    def _np_random_seed(self) -> int | None:
        return self._seed

    @_np_random_seed.setter
    def _np_random_seed(self, value: int | None) -> None:
        """Ignore the -1 that Gymnasium writes when it gets a generator; the episode's seed is unchanged."""

    def _set_tools(self, tools: tuple[Tool, ...]) -> None:
        """Replace the tools of the class by tools of this instance."""
        self.tools = tools  # type: ignore[misc]
        self._tools_by_name = {tool.name: tool for tool in tools}  # type: ignore[misc]
        self._plain_tools = _plain(tools)  # type: ignore[misc]
        self.action_space = action_space_for(tools, parallel=self.allow_parallel_tool_calls)

    _offer = former_name("_offer", _set_tools)

    # --- inner workings -------------------------------------------------------------------------------------

    def _start(self, seed: int | None, options: dict[str, Any] | None) -> None:
        with self._new_episode(seed):
            self.begin_episode(options or {})

    @contextlib.contextmanager
    def _new_episode(self, seed: int | None) -> Iterator[None]:
        """Set the seed of a new episode; restore the former seed if the new episode cannot begin."""
        if seed is not None:
            seed = self._checked_seed(seed)
        before = self._seed, self._rng, self._numpy_rng
        if seed is None:
            seed = secrets.randbits(53) if self._seed is None else following_seed(self._seed)
        self._seed, self._rng, self._numpy_rng = seed, None, None
        try:
            yield
        except BaseException:
            self._seed, self._rng, self._numpy_rng = before
            raise
        self._steps = 0
        self._ended = False

    def _checked_seed(self, seed: object) -> int:
        try:
            # NumPy's integers are accepted as well.
            number = operator.index(seed)  # type: ignore[arg-type]
        except TypeError:
            number = -1
        if not 0 <= number <= MAX_SEED:
            raise self.invalid_arguments((["seed"], f"must be an integer from 0 to {MAX_SEED}"))
        return number

    def _require_running(self) -> None:
        if self._ended:
            raise EpisodeEndedError
        if self._seed is None:
            raise EpisodeNotStartedError

    def _require_render_mode(self, mode: str) -> None:
        supported = self.metadata["render_modes"]
        if mode not in supported:
            raise RenderModeError(mode, list(supported))

    def _calls_of(self, parsed: ParsedAction) -> list[ToolCall]:
        if parsed.fault is not None:
            return [ToolCall("", {}, None, parsed.fault)]
        if parsed.calls:
            return parsed.calls
        # One word beyond the limit suffices for its error message.
        words = parsed.words[: self.arguments.max_actions_per_turn + 1]
        call_from = self.call_from_marked_word if parsed.is_marked else self.call_from_word
        return [call_from(word) for word in words] or [ToolCall("", {}, None, self._no_action())]

    def _no_action(self) -> str:
        formats = self.arguments.action_format
        if formats == "auto":
            return "No action was found."
        names = (formats,) if isinstance(formats, str) else formats
        examples = [each.examples[0] for each in FORMATS if each.name in names]
        return f"No action was found. It is read in forms such as {' or '.join(examples)}."

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

    def _tool_of(self, word: str) -> str | None:
        """Return the name of the tool that a word names, directly or by an alias."""
        name = word.strip(" \t\n.!\"'`*").casefold().replace(" ", "_").replace("-", "_")
        tool = self.word_aliases.get(name, name)
        return tool if tool in self._tools_by_name else None

    def _fault_of(self, call: ToolCall) -> str | None:
        """Return what makes a call invalid; ``None`` if it is valid."""
        if call.fault is not None:
            return call.fault
        tool = self._tools_by_name.get(call.name)
        return f"There is no tool '{call.name[:64]}'." if tool is None else tool.fault(call.arguments)

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

    def _tool_hint(self) -> str:
        return f" Available: {', '.join(self._tools_by_name)}." if self._tools_by_name else ""

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
        if self._in_parts:
            parts = sum_of_parts(outcomes or (last,))
            if arguments.reward_parts is not None:
                parts = arguments.reward_parts.weighted(parts, written_text(action))
            # The sum, so that the parts are exactly the reward.
            reward, info["reward_parts"] = sum(parts.values()), parts
        return observation, reward, terminated, truncated, info


def _plain(tools: Sequence[Tool]) -> frozenset[str]:
    """Return the names of the tools that need no argument."""
    return frozenset(tool.name for tool in tools if not tool.parameters.get("required"))
