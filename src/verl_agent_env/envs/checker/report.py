"""What a check found: a result for each check, and what the environment costs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    name: str
    passed: bool
    detail: str
    """What was seen, what is wrong, or why the check does not apply."""
    skipped: bool = False
    """Whether the check does not apply to this environment; it then counts as passed."""


@dataclass(slots=True)
class Figures:
    """What the environment costs on this machine; ``None`` where it could not be measured."""

    us_per_step: float | None = None
    """Mean time of a step with a random action, in microseconds."""
    us_per_reset: float | None = None
    """Mean time of a reset, each with another seed, in microseconds."""
    bytes_per_instance: int | None = None
    """Memory of an instance after its first reset, what Python and NumPy allocate, in bytes."""
    snapshot_bytes: int | None = None
    """Size of the largest snapshot seen."""


@dataclass(slots=True)
class CheckReport:
    """All findings about one environment."""

    env_name: str
    results: list[CheckResult] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    deterministic: bool | None = None
    """Whether seed and actions gave the same episodes again, also in another process; ``None`` if it never ran."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(result.passed for result in self.results)

    @property
    def failures(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if not result.passed]


class CheckFailedError(Exception):
    """The environment breaks a rule; the text says which and where."""


class CheckSkippedError(Exception):
    """The check does not apply; the text says why."""


def require(holds: bool, otherwise: str) -> None:
    """Fail the check unless the condition holds.

    Raises:
        CheckFailedError: It does not.
    """
    if not holds:
        raise CheckFailedError(otherwise)
