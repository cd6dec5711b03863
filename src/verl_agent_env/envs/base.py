"""What every environment shares: Gymnasium's contract on the outside, a few small hooks on the inside.

A new environment is one file: a subclass of :class:`ChatEnv` with a class docstring, an :class:`EnvArguments`, its
tools, and the hooks ``task_prompt_text``, ``begin_episode``, ``act``, ``dump_state`` and ``load_state``.
"""

from __future__ import annotations

import contextlib
import operator
import random
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from verl_agent_env.envs.rng import (
    EpisodeRandom,
    following_seed,
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
    MAX_CALLS_PER_TURN,
    ActionFormat,
    ParsedAction,
    Tool,
    ToolCall,
    content_text,
    parse_action,
    read_single_call,
    stated_answers,
    text_part,
    user_message,
)
from verl_agent_env.types import Action, Content, Info, Observation

Execution = Literal["inline", "compute", "thread", "async"]
"""Where a server runs the code of a kind.

``inline``: on the event loop, for what never blocks and takes some milliseconds at most; ``compute``: in one of a few
threads, for what computes longer; ``thread``: in one of many, for what waits; ``async``: as a coroutine.
"""
Durability = Literal["journal", "snapshot", "relaxed", "none"]
"""How the environments of a kind outlive their worker.

``journal``: their steps are kept, and played again; ``snapshot``: their state after each step is kept; ``relaxed``: as
``journal``, but a step is answered before it is kept, so the last ones can be lost; ``none``: they do not.
"""

SNAPSHOT_FORMAT = 1
MAX_SEED = (1 << 63) - 1
_MAX_FAULTS = 20


class EnvArguments(BaseModel):
    """Keyword arguments that all environments take; an environment's own class adds to them."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    max_steps: int = Field(default=100, ge=1, le=1_000_000)
    """Moves after which the episode is truncated; a turn without a valid move counts as one."""
    max_actions_per_turn: int = Field(default=1, ge=1, le=1_000)
    """Moves that one action may hold; above 1, parallel tool calls are allowed."""
    max_calls_per_turn: int = Field(default=MAX_CALLS_PER_TURN, ge=1, le=1_000)
    """Tool calls that one action may hold, carried out or not; an action with more is invalid. At least
    ``max_actions_per_turn``, whatever is given."""
    invalid_action_reward: float = 0.0
    """Added to the reward of a turn whose action cannot be carried out; usually zero or below."""
    invalid_action_ends_episode: bool = False
    """Whether such an action ends the episode (``terminated``)."""
    include_task_prompt: bool = True
    """Whether the first observation begins with the task prompt."""
    task_prompt: str | None = Field(default=None, max_length=65_536)
    """Replaces the environment's own task prompt."""
    action_format: ActionFormat = "auto"
    """Formats in which an action in text is read: one name, a list of names, or ``auto`` for all of them. Structured tool
    calls are always read."""

    @field_validator("action_format")
    @classmethod
    def _names_a_format(cls, action_format: ActionFormat) -> ActionFormat:
        if not action_format:
            raise ValueError("name at least one format, or 'auto'")
        return action_format


class ChatEnv(gymnasium.Env[Observation, Action]):
    """Base class of environments that talk in chat messages.

    ``reset`` and ``step`` are Gymnasium's. An observation is a list of messages, an action is anything that
    :func:`verl_agent_env.messages.parse_action` reads. An action that cannot be carried out is answered with a
    message to learn from and never raises.

    An episode is a function of the arguments and its seed alone. ``reset()`` without a seed goes on to the seed that
    follows from the last one, so a first seed determines all later episodes too.
    """

    env_name: ClassVar[str] = ""
    """Registered name, such as ``verl_env/sokoban-v0``."""
    Arguments: ClassVar[type[EnvArguments]] = EnvArguments
    """Model of the keyword arguments; validated before anything is built."""
    tools: ClassVar[tuple[Tool, ...]] = ()
    """What the model may call."""
    word_aliases: ClassVar[Mapping[str, str]] = {}
    """Tools that a bare word stands for in plain text, by lower-case word."""
    execution: ClassVar[Execution] = "thread"
    """Where a server runs it. What is ``inline`` runs as ``compute`` with arguments of a high :meth:`cost_ms`."""
    deterministic: ClassVar[bool] = True
    """Whether seed and actions determine the episode, so that it can be replayed."""

    durability: ClassVar[Durability | None] = None
    """How a cluster keeps it; not given, ``journal`` if it is deterministic, else ``snapshot`` if it has a state."""
    state_version: ClassVar[int] = 1
    """Version of what :meth:`dump_state` gives. Raised whenever the same state is written differently than before, or
    means something else: an episode goes on only where its state is of the same version."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]
    observation_space = ObservationSpace()
    action_space = ActionSpace((), parallel=False)

    _tools_by_name: ClassVar[dict[str, Tool]] = {}
    _plain_tools: ClassVar[frozenset[str]] = frozenset()

    __slots__ = ("_ended", "_numpy_rng", "_rng", "_seed", "_steps", "arguments")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._tools_by_name = {tool.name: tool for tool in cls.tools}
        cls._plain_tools = _plain(cls.tools)
        cls.action_space = action_space_for(cls.tools, parallel=False)

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        """Build an environment; its first episode begins with ``reset``.

        Args:
            render_mode: What ``render()`` draws; one of ``metadata["render_modes"]``.
            kwargs: See ``Arguments``; or ``arguments=`` one instance of it, shared between environments.

        Raises:
            InvalidEnvArgumentsError: An argument is unknown or out of its range.
            RenderModeError: No such render mode.
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
        self._steps = 0
        self._ended = False

    @classmethod
    def validate_arguments(cls, kwargs: Mapping[str, Any]) -> EnvArguments:
        """The model of these keyword arguments; environments with equal arguments can share it.

        Raises:
            InvalidEnvArgumentsError: An argument is unknown or out of its range.
        """
        try:
            return cls.Arguments.model_validate(dict(kwargs))
        except ValidationError as invalid:
            faults = invalid.errors(include_url=False, include_context=False, include_input=False)
            # A list can be wrong in each of its items; the first few tell enough.
            shown = ((list(fault["loc"]), fault["msg"]) for fault in faults[:_MAX_FAULTS])
            raise cls.invalid_arguments(*shown) from None

    @classmethod
    def invalid_arguments(cls, *faults: tuple[list[int | str], str]) -> InvalidEnvArgumentsError:
        """The error that tells a caller what is wrong with the arguments: pairs of place and sentence."""
        errors = [{"loc": loc, "msg": message} for loc, message in faults]
        return InvalidEnvArgumentsError(cls.env_name or cls.__name__, errors)

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:  # noqa: ARG003 - a subclass looks at them
        """About how many milliseconds one reset or one step computes at most; the same on every machine.

        A server decides by it where to run an environment, and how many it makes in one call.

        Args:
            arguments: As :meth:`validate_arguments` gives them.
        """
        return 1.0

    # --- hooks: what an environment's author writes ---------------------------------------------------------

    def task_prompt_text(self) -> str:
        """What the model has to do and how it acts, in words."""
        raise NotImplementedError

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        """Set up a new episode, all randomness from ``self.rng``, ``self.np_random`` or ``self.episode_seed``.

        Raises:
            InvalidEnvArgumentsError: No episode can be made of the arguments and ``options``; nothing was changed.
        """
        raise NotImplementedError

    def look(self) -> Content:
        """What the model sees of the environment as it stands."""
        return ""

    def first_look(self) -> Content:
        """What the model sees at the beginning."""
        return self.look()

    def act(self, call: ToolCall) -> Outcome:
        """Carry out one call of a known tool, its required arguments present and of the right type."""
        raise NotImplementedError

    def dump_state(self) -> Any:
        """The episode's state as small JSON values; random generators, seed and step count are kept by the base."""
        raise NotImplementedError

    def load_state(self, state: Any) -> None:
        """Take over what :meth:`dump_state` gave."""
        raise NotImplementedError

    def call_from_word(self, word: str) -> ToolCall:
        """The call that a move written in plain text stands for; with a fault when it stands for none.

        A sentence that says what the answer is stands for the move that it names: "The answer is up." Depends on the word
        alone: an episode that is played again is not asked again.
        """
        tool = self._tool_of(word)
        if tool is None:
            # All that is said to be the answer has to be the move: "left to the user's choice" is none.
            tool = next((self._tool_of(answer) for answer in stated_answers(word)[:1]), None)
        if tool is not None:
            return ToolCall(tool, {})
        shown = word if len(word) <= 40 else word[:40] + "…"
        return ToolCall("", {}, None, f"'{shown}' is not an action.")

    def call_from_marked_word(self, word: str) -> ToolCall:
        """The call that a move stands for which the text marks as its answer; any other move's by default."""
        return self.call_from_word(word)

    def secrets(self) -> Sequence[str]:
        """Texts that give the running episode's solution away; ``check-env`` looks for them in what the model sees."""
        return ()

    def idle_reward(self) -> float:
        """Reward of a turn in which nothing was done."""
        return 0.0

    def solution(self) -> list[Action] | None:
        """Actions that lead from here to success; ``None`` where none are known.

        For demonstrations, curation and tests; what it gives is never part of an observation or an info.
        """
        return None

    def guess(self, dice: random.Random) -> Action:
        """What a player without a plan might do: an action that is carried out, most of the time.

        For demonstrations that err; actions are sampled from ``dice`` alone.
        """
        self.action_space.seed(dice.getrandbits(32))
        return self.action_space.sample()

    def draw(self, mode: str) -> Any:
        """Draw the environment: ``ansi`` and ``svg`` give text, ``rgb_array`` an array (height, width, 3) of uint8.

        Raises:
            RenderModeError: The environment has no such mode.
        """
        self._require_render_mode(mode)
        if mode != "ansi":
            raise NotImplementedError
        return content_text(self.look())

    # --- Gymnasium's interface ------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode.

        Args:
            seed: From 0 to 2**63 - 1. Without one, the seed that follows from the last episode's; a random one at first.
            options: As the environment takes them; none by default.

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
            content, reward, _, _, effective, fault = outcome
            if fault is not None:
                content = self._show(outcome)
            elif content is None:
                content = self.look()
            message = {"role": "tool", "tool_call_id": call.id, "content": content}
            return self._finish([message], reward, outcome, fault is None, effective)
        return self.take_turn(self._calls_of(self.read_action(action)))

    def take_turn(self, calls: list[ToolCall]) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the calls of one action, as :meth:`step` does.

        Args:
            calls: As :meth:`calls_of` gives them.

        Raises:
            EpisodeNotStartedError, EpisodeEndedError: As :meth:`step`.
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
        return self._finish(turn.messages(), turn.reward, turn.outcomes[-1], turn.valid, turn.effective)

    def render(self) -> Any:
        """Draw the environment in the mode that it was built with; ``None`` without one."""
        return None if self.render_mode is None else self.draw(self.render_mode)

    def close(self) -> None:
        """Free what the environment holds; nothing by default."""

    # --- what a server needs beside it ----------------------------------------------------------------------

    @property
    def episode_seed(self) -> int:
        """The running episode's seed.

        Raises:
            EpisodeNotStartedError: ``reset`` was never called.
        """
        if self._seed is None:
            raise EpisodeNotStartedError
        return self._seed

    @property
    def num_steps(self) -> int:
        """Moves made in this episode."""
        return self._steps

    @property
    def ended(self) -> bool:
        """Whether the episode was terminated or truncated."""
        return self._ended

    @property
    def allow_parallel_tool_calls(self) -> bool:
        """Whether one action may hold several tool calls."""
        return self.arguments.max_actions_per_turn > 1

    def task_prompt(self) -> str:
        """What the model has to do and how it acts, as the arguments have it."""
        replaced = self.arguments.task_prompt
        return replaced if replaced is not None else self.task_prompt_text()

    def first_observation(self) -> Observation:
        """What ``reset`` showed, made anew from the state at the beginning of the episode."""
        content = self.first_look()
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
        """Return the calls that a read action asks for, at least one, each with the fault that keeps it from being run."""
        return [call._replace(fault=self._fault_of(call)) for call in self._calls_of(parsed)]

    def calls_of(self, action: Action) -> list[ToolCall]:
        """Read an action into the calls that it asks for, at least one; nothing is changed.

        Calls that cannot be carried out are left with their id and their fault. ``step(action)`` is
        ``take_turn(calls_of(action))``, so they are enough to play a step again.
        """
        return [
            call if call.fault is None else ToolCall("", {}, call.id, call.fault)
            for call in self.checked_calls(self.read_action(action))
        ]

    def snapshot(self) -> bytes:
        """The whole episode in a few hundred bytes of JSON: state, random generators, seed, step count.

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
        """Stand exactly where an environment with the same arguments stood at its :meth:`snapshot`.

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
        """Tell the episode's state from others, in 32 bits; how it is shown makes no difference.

        Raises:
            Exception: As :meth:`dump_state` raises, or its state is not JSON.
        """
        rng = self._rng
        state = (self._steps, self._ended, None if rng is None else rng.low_bits, self.dump_state())
        return zlib.crc32(orjson.dumps(state))

    # --- randomness: two views of one seed ------------------------------------------------------------------

    @property
    def rng(self) -> EpisodeRandom:
        """The episode's random generator, small and fast; the same stream as ``np_random`` in its ``random()``."""
        if self._rng is None:
            self._rng = EpisodeRandom.from_seed(self.episode_seed)
        return self._rng

    @property
    def _np_random(self) -> np.random.Generator:
        # Gymnasium keeps a generator here; ours comes into being when somebody asks, it takes a kilobyte.
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
        """Gymnasium writes -1 here when it is given a generator; the episode's seed stays what it is."""

    def _offer(self, tools: tuple[Tool, ...]) -> None:
        """Offer this instance's model other tools than the class's."""
        self.tools = tools  # type: ignore[misc]
        self._tools_by_name = {tool.name: tool for tool in tools}  # type: ignore[misc]
        self._plain_tools = _plain(tools)  # type: ignore[misc]
        self.action_space = action_space_for(tools, parallel=self.allow_parallel_tool_calls)

    # --- inner workings -------------------------------------------------------------------------------------

    def _start(self, seed: int | None, options: dict[str, Any] | None) -> None:
        with self._new_episode(seed):
            self.begin_episode(options or {})

    @contextlib.contextmanager
    def _new_episode(self, seed: int | None) -> Iterator[None]:
        """Take on the seed of a new episode; go back to the one before when the new one cannot begin."""
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
            # NumPy's integers are fine as well.
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
        # Of the words beyond the limit one is enough to be refused.
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
        # A call without arguments of a tool that needs none, as of a grid world's moves, has no fault to look for.
        name, arguments, _, fault = call
        if arguments or fault is not None or name not in self._plain_tools:
            fault = self._fault_of(call)
            if fault is not None:
                return self._invalid(fault, self.idle_reward(), None)
        outcome = self.act(call)
        return outcome if outcome.fault is None else self._judged(outcome)

    def _tool_of(self, word: str) -> str | None:
        """The tool that a word names, by its own name or another one."""
        name = word.strip(" \t\n.!\"'`*").casefold().replace(" ", "_").replace("-", "_")
        tool = self.word_aliases.get(name, name)
        return tool if tool in self._tools_by_name else None

    def _fault_of(self, call: ToolCall) -> str | None:
        """Why a call cannot be carried out at all."""
        if call.fault is not None:
            return call.fault
        tool = self._tools_by_name.get(call.name)
        return f"There is no tool '{call.name[:64]}'." if tool is None else tool.fault(call.arguments)

    def _judged(self, outcome: Outcome) -> Outcome:
        """What ``act`` gave, as an invalid action where it names a fault."""
        if outcome.fault is None:
            return outcome
        arguments = self.arguments
        return outcome._replace(
            reward=outcome.reward + arguments.invalid_action_reward,
            terminated=outcome.terminated or arguments.invalid_action_ends_episode,
            effective=False,
        )

    def _invalid(self, fault: str, reward: float, content: Content | None) -> Outcome:
        return Outcome(
            content,
            reward + self.arguments.invalid_action_reward,
            terminated=self.arguments.invalid_action_ends_episode,
            effective=False,
            fault=fault,
        )

    def _show(self, outcome: Outcome) -> Content:
        content = outcome.content if outcome.content is not None else self.look()
        if outcome.fault is None:
            return content
        advice = f"Invalid action: {outcome.fault}{self._tool_hint()}"
        if not content:
            return advice
        return f"{advice}\n{content}" if isinstance(content, str) else [text_part(advice), *content]

    def _tool_hint(self) -> str:
        return f" Available: {', '.join(self._tools_by_name)}." if self._tools_by_name else ""

    def _finish(
        self, observation: Observation, reward: float, last: Outcome, valid: bool, effective: bool
    ) -> tuple[Observation, float, bool, bool, Info]:
        terminated = last.terminated
        truncated = self._steps >= self.arguments.max_steps and not terminated
        self._ended = terminated or truncated
        info = {
            "num_steps": self._steps,
            "action_is_valid": valid,
            "action_is_effective": effective,
            "success": last.success,
        }
        return observation, reward, terminated, truncated, info


def _plain(tools: Sequence[Tool]) -> frozenset[str]:
    """Names of the tools that need no argument."""
    return frozenset(tool.name for tool in tools if not tool.parameters.get("required"))
