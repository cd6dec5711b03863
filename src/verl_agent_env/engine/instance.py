"""One live environment on a host: where it stands, and what it takes to answer its last step again."""

from __future__ import annotations

import asyncio
from typing import Any

import gymnasium

from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    EpisodeEndedError,
    SequenceConflictError,
    SequenceGapError,
    SequenceStaleError,
)
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer


class Instance:
    """A live environment with its episode's history.

    The history is the accepted actions, as JSON. With the seed they give a deterministic environment back, exactly.
    """

    __slots__ = (
        "actions",
        "answers",
        "arguments",
        "beginning",
        "closed_as",
        "created_at",
        "ended",
        "env",
        "env_id",
        "episode",
        "history_bytes",
        "kind",
        "last_action",
        "last_answer",
        "last_used",
        "lock",
        "lost",
        "options",
        "run_id",
        "seed",
        "seq",
        "ttl_s",
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
        self.episode = -1
        self.seq = 0
        self.ended = False
        self.closed_as: str | None = None
        self.lost: str | None = None
        """Why the environment cannot come back, if so."""
        self.actions: list[bytes] | None = None
        """Accepted actions, or ``None`` when there are none yet or they outgrew what is kept."""
        self.beginning: ResetAnswer | None = None
        self.answers: list[StepAnswer] | None = None
        """The answers of the reset and of the actions, kept only where a replay would not give them again."""
        self.history_bytes = 0
        self.last_action: bytes | None = None
        self.last_answer: StepAnswer | None = None

    @property
    def history_complete(self) -> bool:
        """Whether all accepted actions of the episode are kept."""
        return self.seq == (0 if self.actions is None else len(self.actions))

    @property
    def replayable(self) -> bool:
        """Whether the environment can be built anew as it stands."""
        return self.kind.deterministic and self.history_complete

    def require_alive(self) -> None:
        """Raise when the environment was closed or lost meanwhile.

        Raises:
            EnvironmentClosedError: It was closed.
            EnvironmentLostError: It cannot come back.
        """
        if self.closed_as is not None:
            raise EnvironmentClosedError(self.env_id, self.closed_as)
        if self.lost is not None:
            raise EnvironmentLostError(self.env_id, self.lost)

    def admit(self, action: bytes, seq: int | None) -> StepAnswer | None:
        """Decide what to do with a step: ``None`` to apply it, or the stored answer of a repeated one.

        Raises:
            EnvironmentClosedError, EnvironmentLostError: As :meth:`require_alive`.
            SequenceStaleError, SequenceGapError, SequenceConflictError: ``seq`` is not the next number.
            EpisodeEndedError: The episode has ended.
        """
        if self.closed_as is not None or self.lost is not None:
            self.require_alive()
        expected = self.seq
        if seq is not None and seq != expected:
            if seq > expected:
                raise SequenceGapError(self.env_id, seq, expected)
            if seq < expected - 1 or self.last_answer is None:
                raise SequenceStaleError(self.env_id, seq, expected)
            if action != self.last_action:
                raise SequenceConflictError(self.env_id, seq, expected)
            return self.last_answer
        if self.ended:
            raise EpisodeEndedError(self.env_id)
        return None

    def begin(self, seed: int, options: bytes | None, beginning: ResetAnswer, max_history_bytes: int) -> None:
        """Note that a new episode has begun."""
        self.seed = seed
        self.options = options
        self.episode += 1
        self.seq = 0
        self.ended = False
        self.actions = self.answers = self.last_action = self.last_answer = self.beginning = None
        self.history_bytes = len(options) if options is not None else 0
        if not self.kind.deterministic:
            size = len(beginning.observation) + len(beginning.info)
            if self.history_bytes + size <= max_history_bytes:
                self.beginning = beginning
                self.history_bytes += size

    def commit(self, action: bytes, answer: StepAnswer, max_history_bytes: int) -> None:
        """Note an applied step."""
        self.seq += 1
        self.ended = answer.terminated or answer.truncated
        self.last_action = action
        self.last_answer = answer
        self.history_bytes += len(action)
        if not self.kind.deterministic:
            self.history_bytes += len(answer.observation) + len(answer.info)
        # Once above its bound, it stays above until the next episode.
        if self.history_bytes > max_history_bytes:
            self.actions = self.answers = self.beginning = None
            return
        if self.actions is None:
            self.actions = [action]
        else:
            self.actions.append(action)
        if not self.kind.deterministic:
            if self.answers is None:
                self.answers = []
            self.answers.append(answer)
