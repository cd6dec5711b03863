"""Makes the catalogue's pages: an overview, and a page for each family with a row for each environment.

What is known of the environments is in ``environments.json`` of their families, what their checks found in
``catalogue_results.json``, which ``make catalogue-test`` writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from docs.markdown import cell
from verl_agent_env.envs.catalogue.adapter import MAX_INLINE_MS
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.catalogue.family import Family
from verl_agent_env.envs.spec import EnvSpec

HERE = Path(__file__).parent
RESULTS = HERE / "catalogue_results.json"


class Result(NamedTuple):
    """What the checks of one environment found."""

    checks: int
    """Number of checks that were made."""
    failed: list[str]
    """Checks that failed, each with its cause."""
    kill: str
    """What came of the episode whose worker was killed: ``survived``, or why not."""
    seen: str
    """What the checks of junk answers and of hidden information compared."""


Results = Mapping[str, Mapping[str, Result]]
"""Results by the version of the package and the name of the environment: ``reasoning-gym 0.1.25``, ``reasoning_gym/chain_sum``."""


def package_of(family: Family) -> str:
    """The package and its version, as results name them."""
    return f"{family.distribution} {family.version}"


def read_results() -> dict[str, dict[str, Result]]:
    """Read what the checks found, of the versions that are used, and of environments that exist."""
    stored = orjson.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    return {
        package_of(family): {
            name: Result(**row)
            for name, row in stored.get(package_of(family), {}).items()
            if name.rpartition("/")[2] in family.specs
        }
        for family in FAMILIES
    }


def write_results(results: Results) -> None:
    """Write what the checks found, an environment a line, so that differences can be read."""
    packages = []
    for package, rows in results.items():
        lines = [f"    {_json(name)}: {_json(row._asdict())}" for name, row in sorted(rows.items())]
        packages.append(f"  {_json(package)}: {{\n" + ",\n".join(lines) + "\n  }")
    RESULTS.write_text("{\n" + ",\n".join(packages) + "\n}\n", encoding="utf-8")


def pages() -> dict[str, str]:
    """The pages of the families: file name in ``docs/`` to Markdown."""
    results = read_results()
    return {_page_name(family): _page(family, results[package_of(family)]) for family in FAMILIES}


def write() -> None:
    """Write the pages of the families."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


_OVERVIEW = """\
## Catalogue

{count} environments of other packages, each family an extra of its own: `pip install 'verl-agent-env[{extras}]'`, or
`[catalogue]` for all. Their names are known without the packages; a package is imported when one of its environments is asked
for first. `verl-agent-env envs chess --tag search-opponent` finds some of them.

{families}

A family's page has a row for each environment, with what its checks found, and names what the package has and the catalogue
has not, with the cause.

`make catalogue-test` checks each environment with the real packages: everything that `check-env` looks for, the same episodes in
two processes with other `PYTHONHASHSEED`s, that states of OpenSpiel which differ only in what a seat may not see look the same to
it, and, where durability is claimed, that an episode over HTTP in a cluster of two nodes is the same although both workers are
killed in its middle. It writes the results into these pages; `ARGS="open_spiel/chess"` checks some, `ARGS=--only-kills` plays in
the cluster alone. A server starts in the same time with all extras as with none (1.03 times the CPU until it is
ready, median of five pairs). What was mended on the way, in the adapters: four tasks of Reasoning Gym whose items or
scores depended on the hash seed or on global generators, answers that the package would have run as Python, and scores for
letters that happen to be in their place.

Any other environment that Gymnasium knows and whose spaces have words is `gymnasium_text/ID`; of `acme/Door-v0` the ID is
written `acme.Door-v0`. Its observations may be Text, numbers, and Dicts or Tuples of these, its actions Discrete, Text, or a
Dict of these. `verl-agent-env wrap ID` writes a file with an adapter, to be filled in with words.
"""

_PAGE = """\
# {title}

This page is made by `make docs`; the results of the checks are from `make catalogue-test`. The other families of the
[catalogue](environments.md#catalogue): {others}.

{summary} {count} environments of {package} ({licence}), with the extra `{extra}`: `pip install 'verl-agent-env[{extra}]'`.

## An episode of {sample}

With seed 1, the actions behind `>`:

```text
{episode}
```

## All environments

{passed}

- **Costs** are processor time of the most expensive reset and step that was measured, in milliseconds, with the default arguments; a third
  number is that of data that a process reads once. What costs more than {max_inline:g} ms runs in one of a few threads, the rest inline.
- **Checks** are those of `make catalogue-test` that were made of it; of one that failed the cause is told.
- **Killed** is the episode over HTTP in a cluster whose workers were both killed in its middle.
- **Compared** is what checks looked at: meaningless answers, which must not be paid, or states that must look the same.

| Environment | What it is | Tags | Costs | Checks | Killed | Compared |
|---|---|---|---|---|---|---|
{rows}
"""


def overview() -> str:
    """The section of ``docs/environments.md``."""
    lines = ["| Family | Names | Environments | Package |", "|---|---|---|---|"]
    lines += [
        f"| [{family.title}]({_page_name(family)}) | `{family.name}/…` | {len(family.specs)} | "
        f"{package_of(family)}, {family.licence} |"
        for family in FAMILIES
    ]
    return _OVERVIEW.format(
        count=sum(len(family.specs) for family in FAMILIES),
        extras=",".join(family.extra for family in FAMILIES),
        families="\n".join(lines),
    )


def _page(family: Family, results: Mapping[str, Result]) -> str:
    failed = [name for name, result in results.items() if result.failed]
    passed = f"{len(results)} of {len(family.specs)} were checked, and {len(results) - len(failed)} passed all their checks"
    others = (f"[{other.title}]({_page_name(other)})" for other in FAMILIES if other is not family)
    page = _PAGE.format(
        title=family.title,
        others=", ".join(others),
        summary=family.summary,
        count=len(family.specs),
        package=package_of(family),
        licence=family.licence,
        extra=family.extra,
        sample=family.sample,
        episode=family.sample_episode,
        passed=f"{passed}; these did not: {', '.join(failed)}." if failed else f"{passed}.",
        max_inline=MAX_INLINE_MS,
        rows="\n".join(_row(spec, results.get(spec.name)) for _, spec in sorted(family.specs.items())),
    )
    return "\n".join([page, *_left_out(family)])


def _row(spec: EnvSpec, result: Result | None) -> str:
    costs = spec.costs
    shown = "–" if costs is None else f"{costs.reset_ms:g}, {costs.step_ms:g}"
    if costs is not None and costs.load_ms > MAX_INLINE_MS:
        shown += f", {costs.load_ms:g}"
    if result is None:
        found = ["not checked", "–", "–"]
    else:
        checks = f"{result.checks} passed" if not result.failed else f"failed: {'; '.join(result.failed)}"
        found = [checks, result.kill or "–", result.seen or "–"]
    short = spec.name.rpartition("/")[2]
    return f"| `{short}` | {' | '.join(map(cell, [spec.description, ', '.join(spec.tags), shown, *found]))} |"


def _left_out(family: Family) -> Iterator[str]:
    causes: dict[str, list[str]] = {}
    for name, cause in sorted(family.left_out.items()):
        causes.setdefault(cause, []).append(f"`{name}`")
    if causes:
        yield "## Left out\n"
        for cause, names in sorted(causes.items()):
            yield f"- {cause}: {', '.join(names)}"
        yield ""


def _page_name(family: Family) -> str:
    return f"catalogue-{family.name.replace('_', '-')}.md"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
