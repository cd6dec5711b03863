"""The state of the environment does not allow the call."""

from __future__ import annotations

from dataclasses import field

from verl_agent_env.errors.base import VerlAgentEnvError


class EnvironmentStateError(VerlAgentEnvError, status=409):
    """The environment is not in a state that allows the call; nothing was changed."""

    env_id: str = ""


class EnvironmentNotFoundError(EnvironmentStateError, code="environment_not_found", status=404):
    """No environment has this id."""

    title = "No environment has this id"
    detail_format = "No environment has the id '{env_id}'; initialize one first."


class EnvironmentClosedError(EnvironmentStateError, code="environment_closed", status=404):
    """The environment was closed, or reaped after it was idle for its ttl."""

    title = "The environment is closed"
    reason: str = "closed"
    """``closed`` by a call, or ``idle`` for longer than its ttl."""

    @property
    def detail(self) -> str:
        why = "was closed" if self.reason == "closed" else "was reaped after being idle for its whole ttl"
        return f"The environment '{self.env_id}' {why}; initialize a new one."


class EpisodeNotStartedError(EnvironmentStateError, code="episode_not_started"):
    """A step before the first reset."""

    title = "No episode has begun"
    detail_format = "No episode has begun; call reset before step."


class EpisodeEndedError(EnvironmentStateError, code="episode_ended"):
    """A step after ``terminated`` or ``truncated``."""

    title = "The episode has ended"
    detail_format = "The episode has ended; call reset to begin another, or close the environment."


class SequenceStaleError(EnvironmentStateError, code="sequence_stale"):
    """The step's number lies before the last one that was applied; its answer is no longer kept."""

    title = "The step was applied long ago"
    detail_format = "Step {seq} was applied before; the next one is {expected_seq}."
    seq: int = 0
    expected_seq: int = 0


class SequenceGapError(EnvironmentStateError, code="sequence_gap"):
    """The step's number lies beyond the next one; steps in between are missing."""

    title = "Steps before this one are missing"
    detail_format = "Step {seq} cannot be applied yet: send step {expected_seq} first."
    seq: int = 0
    expected_seq: int = 0


class SequenceConflictError(EnvironmentStateError, code="sequence_conflict"):
    """The step's number was used already, with another action."""

    title = "The step's number was used with another action"
    detail_format = "Step {seq} was applied with another action; the next one is {expected_seq}."
    seq: int = 0
    expected_seq: int = 0


class SeatError(EnvironmentStateError):
    """The action's seat cannot act; nothing was changed."""


class UnknownSeatError(SeatError, code="unknown_seat", status=422):
    """The environment has no such seat."""

    title = "There is no such seat"
    detail_format = "There is no seat {seat}: the environment has {num_seats} of them, from 0."
    seat: int = 0
    num_seats: int = 0


class NotYourTurnError(SeatError, code="not_your_turn"):
    """Another seat is to act; wait until this one is in ``turn``."""

    title = "Another seat is to act"
    detail_format = "Seat {seat} cannot act now: in turn are the seats {turn}. Wait until it is among them."
    seat: int = 0
    turn: list[int] = field(default_factory=list)
    """Seats that are to act."""


class HistoryFullError(EnvironmentStateError, code="history_full", status=413):
    """The actions of the episode exceed ``max_kept_bytes``; the last one was not applied."""

    title = "The episode's history is full"
    detail_format = (
        "The actions of this episode of '{env_id}' take {max_kept_bytes} bytes, and its kind has no state to begin "
        "anew from; nothing was applied. Reset it, or raise max_kept_bytes."
    )
    max_kept_bytes: int = 0


class EnvironmentLostError(EnvironmentStateError, code="environment_lost", status=410):
    """The environment cannot be recovered; create another one."""

    title = "The environment is lost"
    detail_format = "The environment '{env_id}' is lost ({reason}); initialize a new one and play again."
    reason: str = ""


class EnvironmentEndedWorkerError(EnvironmentStateError, code="environment_ended_worker", status=410):
    """A call on the environment ended its worker process; the environment's code is not run again."""

    title = "The environment has ended a worker"
    episode: int = 0
    seq: int = 0
    """Number of the step; -1 for a reset or the creation of the environment, -2 for its recovery."""
    cause: str = ""
    """Exit status or signal of the worker."""

    @property
    def detail(self) -> str:
        calls = {-1: f"the beginning of episode {self.episode}", -2: "bringing it back"}
        call = calls.get(self.seq, f"step {self.seq} of episode {self.episode}")
        cause = f" ({self.cause})" if self.cause else ""
        return (
            f"A call on the environment '{self.env_id}' ended its worker process: {call}{cause}. It is not run again; "
            "close the environment, and repair its code or leave out what it was asked before you make another one."
        )


class ReplayDivergedError(EnvironmentStateError, code="replay_diverged", status=410):
    """The environment cannot be recovered: its replayed steps gave other results."""

    title = "The environment does not replay"
    detail_format = (
        "The environment '{env_id}' cannot be recovered: in its replay, step {seq} gave another result than it did. Its "
        "kind is not deterministic, or its code has changed; initialize a new one and play again."
    )
    seq: int = 0
    """First step whose replay gave another result."""


class IncompatibleVersionError(
    EnvironmentStateError, code="incompatible_version", status=503, retryable=True
):
    """The environment's state was written by another version of its kind, which this worker cannot read.

    Nothing is lost: the environment moves to a worker of that version as soon as one is alive.
    """

    title = "No version of the environment's kind here reads its state"
    detail_format = (
        "The environment '{env_id}' was written by another version of '{env_name}' (state {written_as}; this worker "
        "reads {readable}). Keep or start a worker of that version, or close the environment."
    )
    env_name: str = ""
    written_as: str = ""
    """Format of the state, or the name of another part that this worker lacks."""
    readable: str = ""
    """Format that this worker reads."""
