"""What a client of one environment knows, and what it may be told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from tests.sim.counting import UPGRADED, Counting
from tests.sim.virtual_loop import Process
from verl_agent_env.envs.fingerprint import fingerprint_of
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    EnvironmentNotFoundError,
    MovedError,
    SequenceGapError,
    SequenceStaleError,
    StoreUnavailableError,
    WorkerUnreachableError,
)
from verl_agent_env.wire.records import Entry, agrees
from verl_agent_env.wire.results import EncodedReset, EncodedStep

_GONE = (EnvironmentNotFoundError, EnvironmentLostError)
_TRY_AGAIN = (MovedError, StoreUnavailableError, WorkerUnreachableError)


LONG_ACTION = 90


class Asked(NamedTuple):
    """Where a client stood when it sent a call."""

    epoch: int
    losses: int
    at: float
    confirmed: int
    """Steps that were answered: others may have been meanwhile, of which the answer need not know."""


class Client:
    """Numbers its steps, repeats what was not answered, and begins nothing new before that.

    The action of a step is a function of environment, episode and number: whatever is lost can be sent again.
    """

    def __init__(
        self, env_id: str, env_name: str, seed: int, violations: list[str], ttl_s: float = 3600.0
    ) -> None:
        self.env_id = env_id
        self.env_name = env_name
        self.seed = seed
        self.ttl_s = ttl_s
        self.used_at = float("-inf")
        """When the last call that was answered was sent: the environment was used then, or later."""
        self.epoch = 0
        """Resets that were answered."""
        self.losses = 0
        """Times that the store turned back or was emptied."""
        self.confirmed = 0
        """Steps of this episode that were answered."""
        self.tried = 0
        """Steps of this episode that were sent."""
        self.pending = "create"
        """What was asked for and has not been answered, but for steps; a new client asks for its environment."""
        self.is_created = False
        self.is_closed = False
        self.is_void = False
        """Nothing more can be said: a loss took it back into an earlier episode."""
        self.is_forgiven = False
        """Whether it may be gone altogether."""
        self.unnumbered_at: Process | None = None
        """Who was asked for a step without a number: nothing else can be asked for before that is answered."""
        self.floor: int | None = None
        """Steps that were kept for certain when the store lost something."""
        self.outdated_until = float("-inf")
        """Until when a worker that is cut off may refuse by what it held before the store alone, which had its lease, lost data."""
        self.probed: int | None = None
        """The step that was asked for at the end."""
        self.last_error: Exception | None = None
        self.calls: set[tuple[asyncio.Task[Any], Process]] = set()
        self._violations = violations
        self._reference = _Reference(seed, self.action)

    def action(self, seq: int) -> str:
        """What it does as its step ``seq``."""
        # Some are so long that a call of the log carries few of them.
        return f"{self.epoch}/{seq}" + "." * (LONG_ACTION if seq % 5 == 3 else 0)

    @property
    def next_seed(self) -> int:
        """Of the next episode."""
        return self.seed + 1000

    @property
    def is_busy(self) -> bool:
        """Whether a call may still be answered."""
        return any(not process.is_dead for _, process in self.calls)

    @property
    def can_step(self) -> bool:
        """Whether it knows an environment to step."""
        if self.unnumbered_at is not None:
            return False
        return self.is_created and not self.pending and not self.is_closed and not self.is_void

    @property
    def can_leave_numbers_out(self) -> bool:
        """Whether all that it asked for was answered and is kept: else nobody could say which step is meant."""
        return self.can_step and not self.is_busy and self.tried == self.confirmed and not self.losses

    @property
    def next_verb(self) -> str | None:
        """What it does next; None when there is nothing left to do."""
        if self.is_void or self.is_closed:
            return None
        return self.pending or "step"

    @property
    def is_settled(self) -> bool:
        """Whether the step asked for at the end was answered, or there was none to ask for."""
        if self.is_void or self.is_closed:
            return True
        return self.probed is not None and not self.pending and self.confirmed > self.probed

    def sent(self, verb: str, seq: int) -> None:
        """A call is on its way."""
        if verb == "step":
            self.tried = max(self.tried, seq + 1)
        else:
            self.pending = verb

    # --- losses that are documented -------------------------------------------------------------------------

    def mark(self) -> tuple[int, int, str] | None:
        """Where it stands; None if it has no environment."""
        return (self.epoch, self.confirmed, self.pending) if self.is_created else None

    def forgive(self, mark: tuple[int, int, str] | None) -> None:
        """The store has lost what was done since ``mark``; everything, if None."""
        self.losses += 1
        if self.unnumbered_at is not None:
            self.is_void = True
        if mark is None:
            self.is_forgiven = True
            self.floor = 0
        else:
            epoch, confirmed, pending = mark
            if epoch != self.epoch or pending or self.is_closed:
                self.is_void = True
            self.floor = min(confirmed, self.floor if self.floor is not None else confirmed)
        if self.is_closed or self.pending in ("reset", "close") or (mark is None and self.epoch):
            self.is_void = True

    # --- answers --------------------------------------------------------------------------------------------

    def answered(
        self, verb: str, seq: int, asked: Asked, answer: Any, now: float, *, is_unnumbered: bool = False
    ) -> None:
        """An answer has come; one that must not be is a violation."""
        if self.is_void:
            return
        if isinstance(answer, EnvironmentClosedError) and self.may_be_idle(now):
            self.is_void = True
            return
        if not isinstance(answer, BaseException):
            self.used_at = max(self.used_at, asked.at)
        if isinstance(answer, Exception) and now < self.outdated_until:
            self.is_void |= is_unnumbered
            return
        if is_unnumbered and isinstance(answer, Exception):
            if not (isinstance(answer, _TRY_AGAIN) or self.losses):
                self._violate(f"a step without a number gave {answer!r}")
            # Whether it was taken cannot be known, and so not which one is the next.
            self.is_void = True
            return
        if isinstance(answer, _TRY_AGAIN):
            self.last_error = answer
            return
        if asked.losses != self.losses and isinstance(answer, Exception):
            # About a time before the loss.
            return
        if isinstance(answer, BaseException):
            self._take_error(verb, seq, asked, answer)
        elif verb == "step":
            self._take_step(seq, asked.epoch, answer)
        else:
            self._take_other(verb, asked.epoch, answer)

    def may_be_idle(self, now: float) -> bool:
        """Whether nobody may have used the environment for its whole ttl."""
        return now - self.used_at > self.ttl_s

    def _take_step(self, seq: int, epoch: int, answer: EncodedStep) -> None:
        if epoch != self.epoch:
            return
        expected = self._reference.answer(seq).to_json()
        if answer.to_json().replace(UPGRADED.encode(), b"") != expected:
            self._violate(f"step {seq} gave {answer.to_json()!r}, not {expected!r}")
        self.confirmed = max(self.confirmed, seq + 1)

    def _take_other(self, verb: str, epoch: int, answer: Any) -> None:
        if verb == "close":
            self.is_closed, self.pending = True, ""
        elif verb == "reset" and epoch == self.epoch:
            self.epoch += 1
            self.seed = self.next_seed
            self.confirmed = self.tried = 0
            self.floor = None if self.floor is None else 0
            self.pending = ""
            self._reference = _Reference(self.seed, self.action)
            self._compare_beginning(answer)
        elif verb == "create":
            self.is_created, self.pending = True, "" if self.pending == "create" else self.pending
            self._compare_beginning(answer[1])

    def _compare_beginning(self, answer: EncodedReset) -> None:
        if answer.observation.replace(UPGRADED.encode(), b"") != self._reference.beginning.observation:
            self._violate(f"the episode began with {answer.observation!r}")

    def _take_error(self, verb: str, seq: int, asked: Asked, error: BaseException) -> None:
        if isinstance(error, EnvironmentClosedError) and (self.is_closed or self.pending == "close"):
            return
        if asked.epoch != self.epoch:
            return
        if isinstance(error, SequenceGapError) and verb == "step":
            self._take_gap(seq, error.expected_seq, asked.confirmed)
        elif isinstance(error, SequenceStaleError) and seq + 1 < self.tried:
            # Several were under way, and all were taken though none was answered: only the last can be asked for again.
            self.confirmed = max(self.confirmed, min(error.expected_seq, self.tried) - 1)
        elif isinstance(error, _GONE) and (self.is_forgiven or not self.is_created):
            self.is_void = True
        elif isinstance(error, EnvironmentClosedError) and self.is_forgiven:
            # Its end may have been lost, and the copy that went on from before it been ended again by whoever knew of it.
            self.is_void = True
        else:
            self._violate(f"{verb} {seq} gave {error!r}")

    def _take_gap(self, seq: int, expected: int, confirmed: int) -> None:
        """Steps before this one are missing: none that was acknowledged may be, unless the store lost it.

        Args:
            seq: The step that was asked for.
            expected: The step that would have been the next one.
            confirmed: Steps that were acknowledged when it was asked for.
        """
        if expected >= confirmed:
            if seq <= confirmed:
                self._violate(f"step {seq} was refused, with {expected} expected")
            return
        if self.floor is None or expected < self.floor:
            self._violate(f"{confirmed} steps were acknowledged, but only {expected} are kept")
        # Its history is sent again.
        self.confirmed = expected

    def check_journal(self, episode: int, entries: Sequence[bytes]) -> None:
        """The journal holds what was asked for, and nothing else."""
        if self.is_forgiven or self.floor is not None or self.pending == "reset":
            return
        if len(entries) > self.tried:
            self._violate(f"{len(entries)} steps are kept, {self.tried} were sent")
        for seq, (entry, known) in enumerate(zip(entries, range(self.tried), strict=False)):
            if not entry:
                # Of a step before the state that the journal begins with, only the number is kept.
                continue
            kept = Entry.from_bytes(entry)
            if kept.action != orjson.dumps(self.action(known)):
                self._violate(f"step {seq} is kept as {kept.action!r} in episode {episode}")
            elif not agrees(kept.digest, self._reference.answer(seq), seq, None, _CODE):
                self._violate(f"step {seq} is kept with another digest")

    def _violate(self, what: str) -> None:
        self._violations.append(f"{self.env_id}, episode {self.epoch}: {what}")


_CODE = fingerprint_of(Counting)


class _Reference:
    """The same episode in one process."""

    def __init__(self, seed: int, action: Any) -> None:
        self._env = Counting()
        self._action = action
        self.beginning = EncodedReset.of(*self._env.reset(seed=seed))
        self._answers: list[EncodedStep] = []

    def answer(self, seq: int) -> EncodedStep:
        """The answer to step ``seq``."""
        while len(self._answers) <= seq:
            self._answers.append(EncodedStep.of(self._env.step(self._action(len(self._answers)))))
        return self._answers[seq]
