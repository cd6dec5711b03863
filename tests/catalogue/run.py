"""Checks every environment of the catalogue, with the real packages, and writes what was found into the documents.

``make catalogue-test`` runs it; ``ARGS="minigrid"`` checks one family, ``ARGS="reasoning_gym/chain_sum open_spiel/*"`` what
these patterns name.
"""

from __future__ import annotations

import argparse
import fnmatch
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docs import catalogue_pages
from tests.catalogue.hidden_information import hidden_information
from tests.catalogue.killed_cluster import KilledCluster
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.checker.checks import CHECKS, check_environment
from verl_agent_env.envs.checker.elsewhere import digests_elsewhere
from verl_agent_env.envs.checker.report import CheckFailedError, CheckResult
from verl_agent_env.envs.checker.subject import Subject, digest_of, subject_of
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.spec import EnvSpec

_NUM_STEPS = 12
_SEEDS = (0, 1)
# Played for many environments in one process, instead of two processes for each that import the package again.
_APART = ("measures", "other_process")
_HASH_SEEDS = (1, 2)
_BETWEEN_SEATS = {"opponent": "self"}
_MAX_CPU_S = 300.0
"""CPU time of the checks of one environment, in seconds; the slowest takes a minute."""
_CHUNK = 24
"""Environments whose episodes are played at the same time elsewhere, and in the cluster."""


@dataclass
class Finding:
    """What was found of one environment."""

    name: str
    num_checks: int
    failures: list[CheckResult] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """What the checks that say more than that all is well have seen, by name."""
    seconds: float = 0.0

    def line(self) -> str:
        """The finding in one line."""
        causes = "; ".join(f"{failure.name}: {failure.detail}" for failure in self.failures)
        return f"{'FAIL' if self.failures else 'ok'} {self.name} ({self.seconds:.1f} s) {causes}"


def main() -> int:
    """Check what the command line names; gives the number of environments that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", metavar="NAME", help="family, name, or pattern with *")
    parser.add_argument(
        "--only-kills", action="store_true", help="only play episodes in a cluster whose workers are killed"
    )
    options = parser.parse_args()
    specs = [
        spec
        for spec in default_registry().specs()
        if spec.family is not None and _wanted(spec, options.patterns)
    ]
    findings: list[Finding] = []
    with (
        # Processes of their own: they go on while the cluster brings its workers back.
        ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool,
        tempfile.TemporaryDirectory(prefix="catalogue-") as folder,
        KilledCluster(Path(folder)) as cluster,
    ):
        checks = [] if options.only_kills else [pool.submit(check, spec.name) for spec in specs]
        for start in range(0, len(specs), _CHUNK):
            wanted = specs[start : start + _CHUNK]
            if options.only_kills:
                chunk = [Finding(spec.name, 0) for spec in wanted]
            else:
                chunk = [check.result() for check in checks[start : start + _CHUNK]]
            if not options.only_kills:
                check_elsewhere(chunk)
            check_kills(chunk, cluster)
            for number, finding in enumerate(chunk, start=start + 1):
                _say(f"{number}/{len(specs)} {finding.line()}")
            findings += chunk
            if not options.only_kills:
                write_results(findings)
    failed = [finding for finding in findings if finding.failures]
    _say(f"{len(findings) - len(failed)} passed, {len(failed)} failed; see docs/catalogue-*.md")
    return 1 if failed or not findings else 0


def check(env_name: str) -> Finding:
    """Run all checks but those that are run for many environments together."""
    begun = time.monotonic()
    finding = Finding(env_name, 0)
    # Of the processor's time: other load on the machine is no fault of an environment.
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, _MAX_CPU_S)
    try:
        _check(finding)
    except ImportError as missing:
        finding.failures.append(CheckResult("import", False, str(missing)))
    except _EndlessError:
        finding.failures.append(CheckResult("endless", False, f"the checks took {_MAX_CPU_S:g} s of CPU"))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    finding.seconds = time.monotonic() - begun
    return finding


def _check(finding: Finding) -> None:
    spec = default_registry().spec(finding.name)
    only = [name for name, _ in CHECKS if name not in _APART]
    finding.num_checks = len(only) + 1
    report = check_environment(finding.name, num_steps=_NUM_STEPS, seeds=_SEEDS, only=only)
    finding.failures += report.failures
    finding.notes = {result.name: result.detail for result in report.results if not result.skipped}
    if spec.family is not None and spec.family.name == "open_spiel":
        result = hidden_information(spec)
        finding.num_checks += 1
        finding.notes["hidden"] = result.detail
        if not result.passed:
            finding.failures.append(result)
        if _has_seats(spec):
            between_seats(finding)


class _EndlessError(BaseException):
    """A check took too much CPU; no error of an environment, which its check would tell of and go on."""


def _give_up(*_: object) -> None:
    raise _EndlessError


def between_seats(finding: Finding) -> None:
    """Check a game of several players once more, played at all of its seats."""
    report = check_environment(
        finding.name,
        _BETWEEN_SEATS,
        num_steps=_NUM_STEPS,
        seeds=_SEEDS,
        only=["seats", "snapshots", "same_seed"],
    )
    finding.num_checks += len(report.results)
    finding.failures += report.failures
    finding.notes["self"] = "; ".join(result.detail for result in report.results if result.name == "seats")


def check_elsewhere(findings: Sequence[Finding]) -> None:
    """Have other processes play the same episodes, whose hashes are salted in another way."""
    subjects = {id(finding): _subject(finding.name) for finding in findings if not _is_broken(finding)}
    players = [finding for finding in findings if id(finding) in subjects]
    here = [digest_of(subjects[id(finding)].play_all()) for finding in players]
    for hash_seed in _HASH_SEEDS:
        try:
            there = digests_elsewhere([subjects[id(finding)] for finding in players], hash_seed)
        except CheckFailedError as failed:
            for finding in players:
                finding.failures.append(CheckResult("other_process", False, str(failed)))
            return
        for finding, one, other in zip(players, here, there, strict=True):
            if one != other:
                detail = f"another episode with PYTHONHASHSEED={hash_seed}"
                finding.failures.append(CheckResult("other_process", False, detail))


def check_kills(findings: Sequence[Finding], cluster: KilledCluster) -> None:
    """Have a cluster play an episode of each environment that claims to survive the death of its worker, with deaths."""
    players: list[tuple[Finding, Subject]] = []
    for finding in findings:
        durability = default_registry().kind(finding.name).durability
        if durability == "none":
            finding.notes["kills"] = "durability none"
        elif not _is_broken(finding):
            players.append((finding, _subject(finding.name)))
            if _has_seats(default_registry().spec(finding.name)):
                players.append((finding, _subject(finding.name, _BETWEEN_SEATS)))
    faults = cluster.play([subject for _, subject in players])
    for (finding, _), fault in zip(players, faults, strict=True):
        finding.num_checks += 1
        if fault or "kills" not in finding.notes:
            finding.notes["kills"] = fault or "survived"
        if fault:
            finding.failures.append(CheckResult("kills", False, fault))


def _has_seats(spec: EnvSpec) -> bool:
    """Whether a game is played against the server by default, and can be played at all of its seats."""
    return spec.name.startswith("open_spiel/") and "1-player" not in spec.tags


def _is_broken(finding: Finding) -> bool:
    """Whether the environment cannot even be played here."""
    return any(failure.name in ("import", "arguments", "same_seed") for failure in finding.failures)


def _subject(env_name: str, env_kwargs: Mapping[str, Any] = MappingProxyType({})) -> Subject:
    registry = default_registry()
    return subject_of(registry.kind(env_name), registry.spec(env_name), env_kwargs, _NUM_STEPS, _SEEDS)


def _wanted(spec: EnvSpec, patterns: Sequence[str]) -> bool:
    namespace = spec.name.partition("/")[0]
    return not patterns or any(
        namespace == pattern or fnmatch.fnmatchcase(spec.name, pattern) for pattern in patterns
    )


def write_results(findings: Sequence[Finding]) -> None:
    """Write what was found into the documents; what is known of other environments stays."""
    known = catalogue_pages.read_results()
    families = {family.name: family for family in FAMILIES}
    for finding in findings:
        family = families[finding.name.partition("/")[0]]
        seen = (finding.notes[name] for name in ("junk", "hidden") if name in finding.notes)
        known[catalogue_pages.package_of(family)][finding.name] = catalogue_pages.Result(
            checks=finding.num_checks,
            failed=[f"{failure.name}: {failure.detail}" for failure in finding.failures],
            kill=finding.notes.get("kills", ""),
            seen="; ".join(seen),
        )
    catalogue_pages.write_results(known)
    catalogue_pages.write()


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
