"""What clients noticed during one fault."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """What a client saw during one fault."""

    calls: int = 0
    steps: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Tries that failed, by code; all of them were made again."""
    unretryable: Counter[str] = field(default_factory=Counter)
    """Errors that cannot be mended: lost environments, wrong sequences."""
    differing: int = 0
    """Environments beside the load's own that did not answer as a single process does."""
    broken: list[str] = field(default_factory=list)
    """What else was promised and not kept."""
    longest_s: float = 0.0
    """From the first try of a step to its answer."""
    latencies_s: list[float] = field(default_factory=list)

    def plus(self, other: Ledger) -> Ledger:
        """Both together."""
        return Ledger(
            self.calls + other.calls,
            self.steps + other.steps,
            self.refused + other.refused,
            self.unretryable + other.unretryable,
            self.differing + other.differing,
            self.broken + other.broken,
            max(self.longest_s, other.longest_s),
            self.latencies_s + other.latencies_s,
        )

    def add(self, other: Ledger) -> None:
        """Count what others saw, but for how long they waited."""
        self.calls += other.calls
        self.steps += other.steps
        self.refused += other.refused
        self.unretryable += other.unretryable
        self.differing += other.differing
        self.broken += other.broken

    def p99_s(self) -> float:
        """The 99th percentile of a step's time, tries included."""
        ordered = sorted(self.latencies_s)
        return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0
