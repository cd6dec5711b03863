"""Limits of one batch: bytes of its answer, and time that its environments compute in threads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

from verl_agent_env.config import HostLimits
from verl_agent_env.errors import AnswerTooLargeError, BatchTooCostlyError

_COUNTED_BYTES = 1024 * 1024
"""Answers are counted in so many bytes at a time: most batches have fewer."""


class AnswerMemory(Protocol):
    """Counts what the answers of a request take of the memory that all requests share."""

    def require(self) -> None:
        """Raise when there is no room for more.

        Raises:
            AtCapacityError: Requests take all that there is.
        """

    def answer(self, size: int) -> None:
        """Count bytes of an answer."""


class _Uncounted:
    def require(self) -> None:
        """Have room for anything."""

    def answer(self, size: int) -> None:
        """Count nothing."""


UNCOUNTED: AnswerMemory = _Uncounted()
"""Of requests that nobody counts."""


@dataclass(frozen=True, slots=True)
class AnswerRoom:
    """Bound on the bytes of a batch's answers, or of those of a worker's part."""

    memory: AnswerMemory = UNCOUNTED
    """Where they are counted."""
    share: float = 1.0
    """The part of ``max_answer_bytes`` that is for them."""

    def part(self, size: int, total: int) -> AnswerRoom:
        """The room of ``size`` items of a batch that has ``total``."""
        return self if size == total else dataclasses.replace(self, share=self.share * size / total)


WHOLE_ROOM = AnswerRoom()
"""All of ``max_answer_bytes``, counted nowhere else."""


class Budget:
    """Counts what a batch costs, so that the items beyond its limits are refused before anything is done for them."""

    __slots__ = (
        "_counted",
        "_largest",
        "_left_ms",
        "_limits",
        "_max_bytes",
        "_memory",
        "_under_way",
        "granted",
        "spent",
    )

    def __init__(self, limits: HostLimits, room: AnswerRoom) -> None:
        """Nothing is spent yet.

        Args:
            limits: With ``max_answer_bytes`` and ``max_batch_compute_s``.
            room: Of the batch's answers.
        """
        self.spent = 0
        """Bytes of the answers so far."""
        self.granted = 0
        """Up to so many of them, and with none under way, :meth:`require` need not be asked."""
        self._max_bytes = int(limits.max_answer_bytes * room.share)
        self._counted = 0
        self._memory = room.memory
        self._limits = limits
        self._left_ms = limits.max_batch_compute_s * 1000.0
        self._largest = 0
        self._under_way = 0

    def expect(self, answer_bytes: int) -> None:
        """Take into account that the answers that follow are about so long."""
        self._largest = max(self._largest, answer_bytes)

    def require(self) -> None:
        """Raise when the answers that there are, and those under way, are as long as may be.

        Raises:
            AnswerTooLargeError: They are.
            AtCapacityError: All requests together take as much memory as they may.
        """
        expected = self.spent + self._under_way * self._largest
        if expected > self._max_bytes:
            raise AnswerTooLargeError(self._max_bytes)
        if expected > self._counted + _COUNTED_BYTES:
            self._memory.require()
            self._memory.answer(expected - self._counted)
            self._counted = expected
        self.granted = min(self._counted + _COUNTED_BYTES, self._max_bytes)

    def begin(self) -> None:
        """Require room for an answer, and count it as under way until :meth:`end`."""
        self.require()
        self._under_way += 1

    def end(self, answer_bytes: int) -> None:
        """Count the answer, or none if its call failed."""
        self._under_way -= 1
        self.spent += answer_bytes
        self.expect(answer_bytes)

    def compute(self, cost_ms: float) -> None:
        """Count what an environment that computes long will cost.

        Raises:
            BatchTooCostlyError: It is more than is left.
        """
        if cost_ms > self._left_ms:
            raise BatchTooCostlyError(self._limits.max_batch_compute_s)
        self._left_ms -= cost_ms
