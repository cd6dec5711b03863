"""What one batch may cost: bytes of its answer, and time that its environments compute in threads."""

from __future__ import annotations

from verl_agent_env.config import HostLimits
from verl_agent_env.errors import AnswerTooLargeError, BatchTooCostlyError


class Budget:
    """Counts what a batch costs, so that the items beyond its limits are refused before anything is done for them."""

    __slots__ = ("_largest", "_left_ms", "_limits", "_under_way", "spent")

    def __init__(self, limits: HostLimits) -> None:
        """Nothing is spent yet.

        Args:
            limits: With ``max_answer_bytes`` and ``max_batch_compute_s``.
        """
        self.spent = 0
        """Bytes of the answers so far."""
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
        """
        if self.spent + self._under_way * self._largest > self._limits.max_answer_bytes:
            raise AnswerTooLargeError(self._limits.max_answer_bytes)

    def begin(self) -> None:
        """As :meth:`require`, and count an answer that is under way until :meth:`end`."""
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
