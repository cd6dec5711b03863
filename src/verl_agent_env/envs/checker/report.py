"""Report of a check run: a result for each check, and the costs of the environment."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check."""

    name: str
    passed: bool
    detail: str
    """Observation, fault, or reason why the check does not apply."""
    skipped: bool = False
    """True if the check does not apply to this environment; it then counts as passed."""


@dataclass(slots=True)
class Figures:
    """Costs of the environment on this machine; ``None`` if not measured."""

    us_per_step: float | None = None
    """Mean time of a step with a random action, in microseconds."""
    us_per_reset: float | None = None
    """Mean time of a reset, each with another seed, in microseconds."""
    bytes_per_instance: int | None = None
    """Memory that Python and NumPy allocate for an instance after its first reset, in bytes."""
    snapshot_bytes: int | None = None
    """Size of the largest snapshot seen."""


@dataclass(slots=True)
class CheckReport:
    """Results of all checks of one environment."""

    env_name: str
    results: list[CheckResult] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    deterministic: bool | None = None
    """True if seed and actions gave the same episodes again, also in another process; ``None`` if unknown."""

    @property
    def passed(self) -> bool:
        """True if no check failed."""
        return all(result.passed for result in self.results)

    @property
    def failures(self) -> list[CheckResult]:
        """Results of the failed checks."""
        return [result for result in self.results if not result.passed]


class CheckFailedError(Exception):
    """The environment breaks a rule; the message names rule and place."""


class CheckSkippedError(Exception):
    """The check does not apply; the message gives the reason."""


def require(holds: bool, otherwise: str) -> None:
    """Fail the check unless the condition holds.

    Raises:
        CheckFailedError: The condition is false.
    """
    if not holds:
        raise CheckFailedError(otherwise)
