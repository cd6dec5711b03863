"""Runner of all checks of an environment; a failed check does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from verl_agent_env.envs.checker import contract_checks, episode_checks, reward_checks, seat_checks
from verl_agent_env.envs.checker.measures import measure_memory, measure_time
from verl_agent_env.envs.checker.report import (
    CheckFailedError,
    CheckReport,
    CheckResult,
    CheckSkippedError,
)
from verl_agent_env.envs.checker.subject import Subject, subject_of
from verl_agent_env.envs.registry import Registry, default_registry
from verl_agent_env.errors import InvalidEnvArgumentsError

Progress = Callable[[str, int, int], None]
"""Called before each check with its name, its number from 1, and the number of checks."""


def _measures(subject: Subject) -> str:
    """Measure the costs of the environment."""
    measure_time(subject)
    measure_memory(subject)
    figures = subject.figures
    parts = [f"{figures.us_per_step:.0f} µs per step", f"{figures.us_per_reset:.0f} µs per reset"]
    if figures.bytes_per_instance is not None:
        parts.append(f"{figures.bytes_per_instance} bytes per instance")
    return ", ".join(parts)


CHECKS: tuple[tuple[str, Callable[[Subject], str]], ...] = (
    ("gymnasium", contract_checks.gymnasium_contract),
    ("measures", _measures),
    ("results", episode_checks.results_valid),
    ("same_seed", episode_checks.same_seed),
    ("other_process", episode_checks.other_process),
    ("global_random", episode_checks.global_random),
    ("independent_instances", episode_checks.independent_instances),
    ("snapshots", episode_checks.snapshots),
    ("malformed_actions", episode_checks.malformed),
    ("no_solution", episode_checks.no_solution),
    ("json_schemas", contract_checks.json_schemas),
    ("spaces", contract_checks.spaces_built_once),
    ("refusals", contract_checks.refusals),
    ("truncation", contract_checks.truncation),
    ("tool_messages", contract_checks.tool_messages),
    ("solutions", reward_checks.solutions_succeed),
    ("junk", reward_checks.junk_unpaid),
    ("costs", reward_checks.costs_declared),
    ("seats", seat_checks.seats_kept),
)
"""All checks by name, in the order in which they run."""


def check_environment(
    name: str,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
    num_steps: int = 60,
    seeds: Iterable[int] = (0, 1, 7),
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a registered environment: Gymnasium's contract and this project's.

    Args:
        name: Registered name or short name.
        env_kwargs: Keyword arguments of the environment.
        registry: Registry of the name; by default that of this process.
        num_steps: Length of the episodes that are played, in steps.
        seeds: Seeds of the episodes that are played; at least one.
        only: Names of the checks to run (see ``CHECKS``); all of them by default.
        progress: Called before each check.

    Returns:
        All findings and figures. A fault of the environment is a finding, not an exception.

    Raises:
        UnknownEnvNameError: No such environment.
        ImportError: Its class cannot be imported.
    """
    registry = registry if registry is not None else default_registry()
    kind = registry.kind(name)
    spec = registry.spec(kind.name)
    report = CheckReport(kind.name)
    try:
        subject = subject_of(kind, spec, env_kwargs or {}, num_steps, seeds)
    except InvalidEnvArgumentsError as refused:
        report.results.append(CheckResult("arguments", False, str(refused)))
        return report
    chosen = [(check_name, check) for check_name, check in CHECKS if only is None or check_name in only]
    for number, (check_name, check) in enumerate(chosen, start=1):
        if progress is not None:
            progress(check_name, number, len(chosen))
        report.results.append(_run(check_name, check, subject))
    report.figures = subject.figures
    if subject.same_here is not None:
        report.deterministic = bool(subject.same_here and subject.same_elsewhere)
    return report


def _run(name: str, check: Callable[[Subject], str], subject: Subject) -> CheckResult:
    try:
        return CheckResult(name, True, check(subject))
    except CheckSkippedError as skipped:
        return CheckResult(name, True, str(skipped), skipped=True)
    except CheckFailedError as failed:
        return CheckResult(name, False, str(failed))
    # Any exception of the environment is a finding.
    except Exception as raised:  # noqa: BLE001
        return CheckResult(name, False, f"raised {type(raised).__name__}: {str(raised)[:300]}")
