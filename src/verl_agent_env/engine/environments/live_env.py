"""One live environment on a host: its state, and what it takes to answer its last step again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium

from verl_agent_env.engine.environments.marks import NO_MARK, Mark
from verl_agent_env.engine.environments.repeats import EarlierSteps
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    EnvironmentStateError,
    EpisodeEndedError,
    IncompatibleVersionError,
    MovedError,
    SequenceConflictError,
    SequenceGapError,
    SequenceStaleError,
)
from verl_agent_env.types import slot_of
from verl_agent_env.wire.operations import split
from verl_agent_env.wire.records import AppliedStep
from verl_agent_env.wire.results import EncodedReset, EncodedStep
from verl_agent_env.wire.suspicions import BEGINNING, CallId

if TYPE_CHECKING:
    from verl_agent_env.engine.group_commit.groups import Group

MOVED = "moved"
"""Reason of an environment's end on a worker whose slot went to another one, which goes on with it."""

_KNOWN_RESETS = 4
"""Episodes after which a copy of a reset is not known any more."""
_KNOWN_STEPS = 8
"""Operations kept of the calls before that of the last step; two of a call that asked for several steps."""
_SPACE = 32
"""Found in bytes much faster than a piece of bytes is."""
_REPEATABLE_RESETS = 16
"""Resets of one call on one environment, before its last one, that can be answered again."""
_MAX_OPTIONS_BYTES = 1024
"""Of each of them."""


class Beginning(NamedTuple):
    """Beginning of an episode, from which its first answer can be given again."""

    operation: bytes
    """Id of what asked for it."""
    seed: int
    options: bytes | None
    """Options of the reset, as JSON."""
    answer: EncodedReset | None = None
    """What was answered, where beginning it again would not give the same."""
    effects: bytes | None = None
    """Outcomes of its calls to the outside, as JSON, if there were any."""


_JOURNALLED, _AWAITED = ("journal", "relaxed"), ("journal", "snapshot")


class LiveEnv:
    """A live environment with its episode's history.

    The history is the accepted actions, as JSON. With the seed they give a deterministic environment back, exactly.
    """

    __slots__ = (
        "actions",
        "answers",
        "arguments",
        "arguments_digest",
        "beginning",
        "closed_as",
        "created_at",
        "digests",
        "durability",
        "earlier_resets",
        "earlier_steps",
        "effects",
        "ended",
        "ending",
        "env",
        "env_id",
        "env_kwargs",
        "episode",
        "first_seq",
        "group",
        "history_bytes",
        "is_awaited",
        "is_journalled",
        "is_noted",
        "kind",
        "last_action",
        "last_answer",
        "last_operation",
        "last_used",
        "lock",
        "lost",
        "lost_as",
        "options",
        "past_operations",
        "resets",
        "reward_sum",
        "run_id",
        "seed",
        "seq",
        "slot",
        "state",
        "state_reward_sum",
        "state_seq",
        "ttl_s",
        "unreadable",
        "watchers",
    )

    def __init__(self, env_id: str, kind: EnvKind, arguments: Any, run_id: str | None, ttl_s: float) -> None:
        self.env_id = env_id
        self.kind = kind
        self.arguments = arguments
        self.run_id = run_id
        self.ttl_s = ttl_s
        self.created_at = 0.0
        self.last_used = 0.0
        self.env: gymnasium.Env[Any, Any] | None = None
        """``None`` after a call that failed: built anew from the history by the next one."""
        self.lock: asyncio.Lock | None = None
        """Serialises calls that do not run inline."""
        self.seed = 0
        self.options: bytes | None = None
        """Options of the reset, as JSON."""
        self.effects: bytes | None = None
        """Outcomes of the calls to the outside that the reset made, as JSON, if there were any."""
        self.episode = -1
        self.seq = 0
        self.ended = False
        self.reward_sum = 0.0
        """Of the steps of the episode."""
        self.arguments_digest = ""
        """Of its keyword arguments, where results of a run are counted."""
        self.closed_as: str | None = None
        self.ending: str | None = None
        """Reason of its end, from when that is asked for: it is closed as soon as it is written."""
        self.lost: str | None = None
        """Why the environment cannot come back, if so."""
        self.lost_as: EnvironmentStateError | None = None
        """The error that says so, where it is not :class:`~verl_agent_env.errors.EnvironmentLostError`."""
        self.actions: list[bytes] | None = None
        """Accepted actions as they are recorded (:mod:`~verl_agent_env.wire.actions`), or ``None`` when there are none yet
        or they outgrew what is kept."""
        self.first_seq = 0
        """Number of the step that the first of the actions was, or will be: earlier ones are not in memory."""
        self.beginning: EncodedReset | None = None
        self.answers: list[EncodedStep] | None = None
        """The answers of the reset and of the actions, kept only where a replay would not give them again."""
        self.history_bytes = 0
        self.last_action: bytes | None = None
        """Tells it from others (:func:`~verl_agent_env.wire.actions.identity_of`)."""
        self.last_answer: EncodedStep | None = None
        self.last_operation = b""
        """What asked for the last step, if it had an id (:mod:`~verl_agent_env.wire.operations`)."""
        self.earlier_steps: EarlierSteps | None = None
        """Steps right before the last one that the same call asked for, if any."""
        self.past_operations: list[bytes] | None = None
        """Operations of the last few calls before that of the last step, of earlier episodes as well, if any: the first
        of each call, and the last."""
        self.resets: tuple[bytes, ...] = ()
        """Operations that began the last few episodes, the present one's last; empty where none had an id."""
        self.earlier_resets: tuple[Beginning, ...] = ()
        """Episodes right before the present one that the same call began, if any."""
        self.durability = ""
        """How the environment is kept outside this process; empty if it is not."""
        self.is_awaited = False
        """Whether calls are answered only when what they did is written."""
        self.is_journalled = False
        """Whether its steps go to a journal."""
        self.slot = 0
        """Slot of its id, if it is kept outside this process."""
        self.env_kwargs: Mapping[str, Any] | None = None
        """Keyword arguments as they were asked for, where environments or episodes are kept."""
        self.digests: list[bytes] | None = None
        """Of the steps of :attr:`actions`, where they go to a journal."""
        self.state: bytes | None = None
        """What the environment's ``snapshot`` gave after :attr:`state_seq` steps, where states are kept."""
        self.state_seq = 0
        self.state_reward_sum = 0.0
        """Of these steps."""
        self.group: Group | None = None
        """The writes that answers about it have to wait for: those that tell of its last change."""
        self.is_noted = False
        """Whether the episode is noted, where episodes are kept."""
        self.watchers: list[asyncio.Future[None]] | None = None
        """Who waits for the next step or episode, if anybody does."""
        self.unreadable: str | None = None
        """Which version of its kind can read its state, if this worker's cannot."""

    @property
    def records_calls(self) -> bool:
        """True if the reading of an action is recorded in place of a longer action."""
        return self.is_journalled and self.kind.reads_calls

    @property
    def history_complete(self) -> bool:
        """True if all accepted actions of the episode are in memory."""
        return self.first_seq == 0 and self._reaches_present

    @property
    def replayable(self) -> bool:
        """True if the environment can be built anew as it is: from its state, or by playing its actions again."""
        if self.state is not None and self.state_seq == self.seq:
            return True
        return self.kind.replays and (self.replays_from_state or self.history_complete)

    @property
    def replays_from_state(self) -> bool:
        """True if the actions that followed on its state are in memory."""
        return self.state is not None and self.first_seq <= self.state_seq and self._reaches_present

    @property
    def _reaches_present(self) -> bool:
        return self.seq == self.first_seq + (0 if self.actions is None else len(self.actions))

    @property
    def is_not_durable(self) -> bool:
        """True if the environment exists in this process only; false if it is lost already."""
        return self.durability in ("", "none") and self.lost is None

    @property
    def is_busy(self) -> bool:
        """True if a call is running on the environment."""
        return self.lock is not None and self.lock.locked()

    @property
    def call(self) -> CallId:
        """Id of a call on the environment at its present step."""
        return CallId(self.env_id, self.episode, self.seq)

    @property
    def next_beginning(self) -> CallId:
        """Id of a call that begins the environment's next episode."""
        return CallId(self.env_id, self.episode + 1, BEGINNING)

    def keep(self, durability: str, env_kwargs: Mapping[str, Any]) -> None:
        """Note how the environment is kept outside this process, and what it was made with."""
        self.durability, self.env_kwargs = durability, env_kwargs
        self.is_journalled, self.is_awaited = durability in _JOURNALLED, durability in _AWAITED
        self.slot = slot_of(self.env_id)

    def note_state(self, state: bytes) -> None:
        """Note the environment's present state."""
        self.state, self.state_seq, self.state_reward_sum = state, self.seq, self.reward_sum

    def require_alive(self) -> None:
        """Raise when the environment moved, was closed or got lost meanwhile, or its end is about to be written.

        Nobody may be told that it is closed before that is written: it may turn out to be another worker's.

        Raises:
            MovedError: Another worker has it.
            EnvironmentClosedError: It was closed.
            EnvironmentLostError, ReplayDivergedError, EnvironmentEndedWorkerError: It cannot come back.
        """
        if self.closed_as == MOVED:
            raise MovedError(slot_of(self.env_id))
        reason = self.closed_as or self.ending
        if reason is not None:
            raise EnvironmentClosedError(self.env_id, reason)
        if self.unreadable is not None:
            raise IncompatibleVersionError(
                self.env_id, self.kind.name, self.unreadable, self.kind.state_format or "none"
            )
        if self.lost_as is not None:
            raise dataclasses.replace(self.lost_as)
        if self.lost is not None:
            raise EnvironmentLostError(self.env_id, self.lost)

    def admit(self, action: bytes, seq: int | None, operation: bytes = b"") -> EncodedStep | None:
        """Decide what to do with a step: ``None`` to apply it, or the stored answer of a repeated one.

        Args:
            action: As JSON.
            seq: Number of the step, if the client numbers them.
            operation: Id of what asks for it, the same when it is sent again: tells a repetition where ``seq`` does not, and from
                a step of another episode.

        Raises:
            MovedError, EnvironmentClosedError, EnvironmentLostError: As :meth:`require_alive`.
            SequenceStaleError, SequenceGapError, SequenceConflictError: ``seq`` is not the next number, or the operation
                was carried out and its answer is no longer kept, or was another one.
            EpisodeEndedError: The episode has ended.
        """
        if self.closed_as is not None or self.ending is not None or self.lost is not None:
            self.require_alive()
        if seq is None:
            if operation and (answer := self._answer_to(operation, action)) is not None:
                return answer
        elif seq != self.seq:
            return self._answer_at(seq, action)
        elif operation:
            # A copy may be held up until an episode has begun in which its number is the next one.
            self._require_new(operation, seq)
        if self.ended:
            raise EpisodeEndedError(self.env_id)
        return None

    def _answer_at(self, seq: int, action: bytes) -> EncodedStep:
        """Find what was answered to the step of this number, which is not the next one."""
        expected = self.seq
        if seq > expected:
            raise SequenceGapError(self.env_id, seq, expected)
        if seq == expected - 1:
            last_action, answer = self.last_action, self.last_answer
        else:
            step = self.earlier_steps and self.earlier_steps.before_last(expected - 1 - seq)
            last_action, answer = (step.action, step.answer) if step else (None, None)
        if answer is None:
            raise SequenceStaleError(self.env_id, seq, expected)
        if action != last_action:
            raise SequenceConflictError(self.env_id, seq, expected)
        return answer

    def _answer_to(self, operation: bytes, action: bytes) -> EncodedStep | None:
        """Find what was answered to the step that ``operation`` asked for; ``None`` if it was not carried out."""
        last, step = self.last_operation, None
        if operation == last and self.last_action is not None and self.last_answer is not None:
            step = AppliedStep(last, self.last_action, self.last_answer)
        elif self.earlier_steps is not None:
            step = self.earlier_steps.of(operation)
        elif _SPACE not in operation and _SPACE not in last and operation not in (self.past_operations or ()):
            # Nearly always: another call, and one that asks for one step only. As _require_new, without a call.
            return None
        if step is None:
            self._require_new(operation, max(0, self.seq - 1))
            return None
        if action != step.action:
            raise SequenceConflictError(self.env_id, self.seq - 1, self.seq)
        return step.answer

    def _require_new(self, operation: bytes, seq: int) -> None:
        """Raise when this operation was carried out, or one that its call asked for after it."""
        past, last = self.past_operations or (), self.last_operation
        if _SPACE not in operation and _SPACE not in last:
            is_known = operation == last or operation in past
        else:
            call, number = split(operation)
            is_known = any(
                call == known and number <= reached for known, reached in map(split, (*past, last))
            )
        if is_known:
            raise SequenceStaleError(self.env_id, seq, self.seq)

    def admit_reset(self, operation: bytes) -> Beginning | None:
        """Decide what to do with a reset: ``None`` to begin an episode, or the episode that it began before.

        A copy that was held up on its way takes nothing away of what has happened since.

        Args:
            operation: Id of what asks for it, the same when it is sent again; empty if it has none.

        Raises:
            MovedError, EnvironmentClosedError, EnvironmentLostError: As :meth:`require_alive`.
            SequenceStaleError: It was carried out, and another call has begun an episode since.
        """
        self.require_alive()
        if not operation or not self.resets:
            return None
        if operation == self.resets[-1]:
            return self.began(operation)
        for begun in self.earlier_resets:
            if begun.operation == operation:
                return begun
        call, number = split(operation)
        if any(call == known and number <= last for known, last in map(split, self.resets)):
            raise SequenceStaleError(self.env_id, 0, self.seq)
        return None

    def began(self, operation: bytes = b"") -> Beginning:
        """Return the beginning of the present episode, which ``operation`` asked for."""
        return Beginning(operation, self.seed, self.options, self.beginning, self.effects)

    def begin(
        self,
        seed: int,
        options: bytes | None,
        beginning: EncodedReset,
        max_history_bytes: int,
        operation: bytes = b"",
        mark: Mark = NO_MARK,
    ) -> None:
        """Note that a new episode has begun, with what was read of the environment."""
        if operation or self.resets:
            self._follow_reset(operation)
        if self.last_operation:
            self._follow_step(b"")
        self.seed = seed
        self.options = options
        self.effects = mark.effects
        self.episode += 1
        self.seq = 0
        if self.watchers is not None:
            self._wake_watchers()
        self.ended = False
        self.reward_sum = 0.0
        self.state, self.state_seq, self.first_seq = mark.state, 0, 0
        self.state_reward_sum = 0.0
        self.actions = self.answers = self.last_action = self.last_answer = self.beginning = self.digests = (
            None
        )
        self.last_operation = b""
        self.history_bytes = len(options or b"") + len(mark.effects or b"")
        if not self.kind.replays:
            size = len(beginning.observation) + len(beginning.info)
            if self.history_bytes + size <= max_history_bytes:
                self.beginning = beginning
                self.history_bytes += size

    def commit(
        self,
        action: bytes,
        answer: EncodedStep,
        max_history_bytes: int,
        operation: bytes = b"",
        mark: Mark = NO_MARK,
        recorded: bytes | None = None,
    ) -> None:
        """Note an applied step.

        Args:
            action: Tells the action from others.
            answer: What is answered.
            max_history_bytes: How much is kept of an episode that is in memory alone.
            operation: Id of the request, if it has one.
            mark: What was read of the environment after it.
            recorded: The action as it is recorded, if that is not the same.
        """
        self.seq += 1
        if self.watchers is not None:
            self._wake_watchers()
        if recorded is None:
            recorded = action
        # As set_last, without a call.
        if operation or self.last_operation:
            self._follow_step(operation)
            self.last_operation = operation
        self.last_action = action
        self.last_answer = answer
        self.ended = answer.terminated or answer.truncated
        self.reward_sum += answer.reward
        replays, digest = self.kind.replays, None
        self.history_bytes += (
            len(recorded) if replays else len(recorded) + len(answer.observation) + len(answer.info)
        )
        if mark is not NO_MARK:
            digest = mark.digest
            if mark.state is not None:
                self.note_state(mark.state)
        # Once above its bound, it stays above until the next episode. What goes to a journal has another bound, and is
        # kept: a store that lost it is filled from here.
        if self.history_bytes > max_history_bytes and not self.is_journalled:
            self.actions = self.answers = self.beginning = self.digests = None
            return
        if self.actions is None:
            self.actions = [recorded]
        else:
            self.actions.append(recorded)
        if digest is not None:
            if self.digests is None:
                self.digests = []
            self.digests.append(digest)
        if not replays:
            if self.answers is None:
                self.answers = []
            self.answers.append(answer)

    @contextlib.contextmanager
    def watched(self) -> Iterator[asyncio.Future[None]]:
        """Give what is done as soon as a step was taken or an episode has begun from now on."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.watchers = [*(self.watchers or ()), changed]
        try:
            yield changed
        finally:
            watchers = [watcher for watcher in self.watchers or () if watcher is not changed]
            self.watchers = watchers or None

    def _wake_watchers(self) -> None:
        watchers, self.watchers = self.watchers, None
        for changed in watchers or ():
            if not changed.done():
                changed.set_result(None)

    def set_last(self, action: bytes, answer: EncodedStep, operation: bytes) -> None:
        """Note what was done last, so that it is not done again."""
        if operation or self.last_operation:
            self._follow_step(operation)
        self.last_action = action
        self.last_answer = answer
        self.last_operation = operation
        self.ended = answer.terminated or answer.truncated

    def _follow_step(self, operation: bytes) -> None:
        """Keep the last step as an earlier one of the same call, or only the id of another call."""
        last = self.last_operation
        if _SPACE in operation and last and split(operation)[0] == split(last)[0]:
            if self.last_action is not None and self.last_answer is not None:
                self.earlier_steps = self.earlier_steps or EarlierSteps()
                self.earlier_steps.add(AppliedStep(last, self.last_action, self.last_answer))
            return
        self.earlier_steps = None
        if last:
            past = self.past_operations
            if past is None:
                past = self.past_operations = []
            if _SPACE in last:
                past.append(split(last)[0])
            past.append(last)
            if len(past) > _KNOWN_STEPS:
                del past[:-_KNOWN_STEPS]

    def _follow_reset(self, operation: bytes) -> None:
        """Keep how the present episode began, if the same call begins the next one; of other calls only the ids."""
        last = self.resets[-1] if self.resets else b""
        if last and b" " in operation and split(operation)[0] == split(last)[0]:
            if self.options is None or len(self.options) <= _MAX_OPTIONS_BYTES:
                begun = self.began(last)
                self.earlier_resets = (*self.earlier_resets, begun)[-_REPEATABLE_RESETS:]
            self.resets = (*self.resets[:-1], operation)
            return
        self.earlier_resets = ()
        self.resets = (*self.resets, operation)[-_KNOWN_RESETS:]

    def forget_before_state(self) -> None:
        """Forget the actions that led to the present state: it is what the history begins with from now on."""
        done = self.state_seq - self.first_seq
        self.answers = self.beginning = None
        if self.actions is not None and self.digests is not None:
            self.actions, self.digests = self.actions[done:], self.digests[done:]
        self.first_seq = self.state_seq
        self.history_bytes = sum(map(len, self.actions or ()))

    def lose(self, error: EnvironmentStateError) -> None:
        """Note that the environment does not come back, and with what error that is told."""
        self.lost, self.lost_as = error.detail, error

    def note_unreadable(self, written_as: str) -> None:
        """Note that this worker's kind cannot read the environment's state: it is of the format ``written_as``."""
        self.unreadable = written_as
        self.lost = "its state was written by another version of its kind"
