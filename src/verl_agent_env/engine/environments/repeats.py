"""Answers of earlier steps of one call on the same environment, to be given again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from verl_agent_env.wire.records import AppliedStep

_MAX_BYTES = 256 * 1024
"""Kept of the earlier steps of one call on one environment."""
_STEP_BYTES = 256
"""What a step takes besides its action and its answer."""


class EarlierSteps:
    """The steps of one call on one environment before its last one, the oldest left out beyond a bound on bytes."""

    __slots__ = ("_bytes", "_steps")

    def __init__(self) -> None:
        self._steps: deque[AppliedStep] = deque()
        self._bytes = 0

    def __iter__(self) -> Iterator[AppliedStep]:
        return iter(self._steps)

    def add(self, step: AppliedStep) -> None:
        """Note the latest of them."""
        self._steps.append(step)
        self._bytes += _size_of(step)
        while self._bytes > _MAX_BYTES:
            self._bytes -= _size_of(self._steps.popleft())

    def of(self, operation: bytes) -> AppliedStep | None:
        """Find the step of this id."""
        return next((step for step in self._steps if step.operation == operation), None)

    def before_last(self, count: int) -> AppliedStep | None:
        """Find the step that was applied ``count`` steps before the call's last one."""
        return self._steps[-count] if 0 < count <= len(self._steps) else None


def _size_of(step: AppliedStep) -> int:
    return _STEP_BYTES + len(step.action) + len(step.answer.observation) + len(step.answer.info)
