"""What each fault came to, set against what is promised, and all of it as a table."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from loadtests.chaos.fault import Fault
from loadtests.chaos.ledger import Ledger


@dataclass(frozen=True)
class Finding:
    """What one fault came to."""

    fault: Fault
    ledger: Ledger
    calm_p99_s: float
    """The slowest hundredth of steps without any fault, in the same run."""

    @property
    def p99_ratio(self) -> float:
        """How many times as long the slowest hundredth of steps took."""
        return self.ledger.p99_s() / self.calm_p99_s

    @property
    def faults(self) -> list[str]:
        """What was promised and not kept."""
        ledger, found = self.ledger, list(self.ledger.broken)
        if ledger.unretryable:
            found.append("lost: " + ", ".join(f"{n} {code}" for code, n in ledger.unretryable.items()))
        if ledger.differing:
            found.append(f"differ: {ledger.differing}")
        if ledger.longest_s > self.fault.max_stall_s:
            found.append(f"stalled {ledger.longest_s:.1f} s")
        added_s = ledger.p99_s() - self.calm_p99_s
        if self.fault.max_p99_ratio is not None and self.p99_ratio > self.fault.max_p99_ratio:
            found.append(f"p99 {self.p99_ratio:.2f} times as long")
        if self.fault.max_added_p99_s is not None and added_s > self.fault.max_added_p99_s:
            found.append(f"p99 {added_s:.2f} s longer")
        if ledger.refused and not self.fault.may_refuse:
            found.append("refused: " + ", ".join(f"{n} {code}" for code, n in ledger.refused.items()))
        return found


def _by_fault(findings: list[Finding]) -> list[tuple[Finding, int]]:
    """One finding for each fault, and how often it struck."""
    found: dict[str, tuple[Finding, int]] = {}
    for finding in findings:
        name = finding.fault.name
        if name in found:
            whole, times = found[name]
            calm_p99_s = max(whole.calm_p99_s, finding.calm_p99_s)
            found[name] = Finding(finding.fault, whole.ledger.plus(finding.ledger), calm_p99_s), times + 1
        else:
            found[name] = finding, 1
    return list(found.values())


def print_table(findings: list[Finding], console: Console) -> None:
    table = Table(title="What clients noticed", header_style="bold")
    for column in (
        "fault",
        "times",
        "steps",
        "tries refused",
        "lost",
        "differ",
        "p99, s",
        "× calm",
        "longest, s",
        "allowed, s",
        "",
    ):
        table.add_column(column, justify="left" if column in ("fault", "") else "right")
    for finding, times in _by_fault(findings):
        ledger = finding.ledger
        table.add_row(
            finding.fault.name,
            str(times),
            f"{ledger.steps:,}",
            ", ".join(f"{count} {code}" for code, count in ledger.refused.items()) or "0",
            str(ledger.unretryable.total()),
            str(ledger.differing),
            f"{ledger.p99_s():.2f}",
            f"{finding.p99_ratio:.2f}",
            f"{ledger.longest_s:.2f}",
            f"{finding.fault.max_stall_s:g}",
            "[red]no[/red]" if any(f.faults for f in findings if f.fault is finding.fault) else "kept",
        )
    console.print(table)
