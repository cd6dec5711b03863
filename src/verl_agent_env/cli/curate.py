"""``verl-agent-env curate``: data sets for verl."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verl_agent_env.cli.env_names import complete_env_name
from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.terminal import plain_console, print_table
from verl_agent_env.integrations.datasets import Component, Curated, CurationPlan, curate
from verl_agent_env.integrations.datasets.problem_files import read_problems
from verl_agent_env.integrations.datasets.selection import Chosen, Remark
from verl_agent_env.integrations.errors import CurationError

T = TypeVar("T")

_NAMED = 10
_ONCE_OR_EACH = "Given once it counts for all environments; given for each, in order, for its own."


@click.command("curate")
@click.argument("env_names", metavar="NAME[=WEIGHT]...", nargs=-1, required=True, shell_complete=complete_env_name)  # fmt: skip
@click.option(
    "--train", type=click.IntRange(min=0), default=10_000, show_default=True, help="Rows to train on."
)
@click.option("--test", type=click.IntRange(min=0), default=100, show_default=True, help="Rows to test with.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder of the files.",
)
@click.option(
    "--env-kwargs",
    multiple=True,
    metavar="JSON",
    help=f"Keyword arguments of the environments. {_ONCE_OR_EACH}",
)
@click.option(
    "--problems",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Problems of one's own instead of those from seeds: JSON lines, a JSON list, parquet, CSV, or Sokoban levels as text; "
    f"keyword arguments, or rows as known data sets have them. {_ONCE_OR_EACH}",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what became of each problem of one's own that was not kept, or that has no known solution: JSON lines.",
)
@click.option("--min-difficulty", type=float, multiple=True, help=f"Leave easier rows out. {_ONCE_OR_EACH}")
@click.option("--max-difficulty", type=float, multiple=True, help=f"Leave harder rows out. {_ONCE_OR_EACH}")
@click.option(
    "--measure",
    type=click.Choice(["auto", "actions"]),
    default="auto",
    show_default=True,
    help="Of difficulty. auto: what is known without a search (Sokoban: pushes at least needed); actions: how many "
    "the solver needs.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Where the episodes' seeds begin.",
)
@click.option(
    "--test-share",
    type=float,
    default=0.125,
    show_default=True,
    help="Share of all layouts that is kept for tests, by their hash.",
)
@click.option("--repeat-layouts", is_flag=True, help="Let training rows repeat layouts, with other seeds.")
@click.option(
    "--with-layout",
    is_flag=True,
    help="Write each layout into its row: room_setup of Sokoban, desc of FrozenLake, numbers and target of Countdown.",
)
@click.option(
    "--test-greedy", is_flag=True, help="Write each test row twice, the second time to be played greedily."
)
@click.option("--system-prompt", help="First message of every conversation.")
@click.option(
    "--demonstrations",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Training rows that the solver plays as well, as messages for supervised fine-tuning.",
)
@click.option(
    "--demonstration-format",
    type=click.Choice(["hermes", "answer"]),
    default="hermes",
    show_default=True,
    help="How a demonstrated action is written.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the demonstrated actions that are random.",
)
@click.option(
    "--max-turns",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Turns after which a demonstration ends.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="Problems in a row without one to keep, after which the search ends.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="all processors",
    help="Processes; they change nothing but the time.",
)
@json_option("Print how many rows were made of what, and the files, as JSON.")
def curate_command(
    env_names: tuple[str, ...],
    out: Path,
    env_kwargs: tuple[str, ...],
    problems: tuple[Path, ...],
    report: Path | None,
    min_difficulty: tuple[float, ...],
    max_difficulty: tuple[float, ...],
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a data set for verl of the environments NAME..., mixed by their weights.

    Training and test rows have different layouts, which are identified by their hash, and equal arguments give equal
    files. Needs pyarrow, which comes with the extra 'curate'.
    """
    number = len(env_names)
    if report is not None and any(report.exists() and report.samefile(path) for path in problems):
        raise click.BadParameter("it would take the place of the problems.", param_hint="--report")
    plan = CurationPlan(
        tuple(
            Component(
                name, weight, kwargs, None if path is None else read_problems(path, name), lowest, highest
            )
            for (name, weight), kwargs, path, lowest, highest in zip(
                map(_name_and_weight, env_names),
                _spread([_parse_kwargs(text) for text in env_kwargs], number, "--env-kwargs", {}),
                _spread(problems, number, "--problems", None),
                _spread(min_difficulty, number, "--min-difficulty", None),
                _spread(max_difficulty, number, "--max-difficulty", None),
                strict=True,
            )
        ),
        **options,
    )
    console = plain_console(stderr=as_json)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    remarks: list[Remark] = []
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("rows", total=plan.train + plan.test + plan.demonstrations)
            made = curate(plan, out, workers=workers, progress=lambda count: bar.advance(task, count))
        remarks = [remark for part in made.chosen for remark in part.remarks]
    except CurationError as shortage:
        remarks = list(shortage.remarks)
        raise
    finally:
        if report is not None:
            _write_report(remarks, report)
    if as_json:
        print_json(_summary(made))
    else:
        _print(made)
    _print_unsolved(remarks, as_json)


def _write_report(remarks: list[Remark], path: Path) -> None:
    lines = [orjson.dumps(remark._asdict(), option=orjson.OPT_APPEND_NEWLINE) for remark in remarks]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(lines))
    except OSError as refused:
        raise click.ClickException(f"Cannot write {path}: {refused.strerror}.") from None


def _print_unsolved(remarks: list[Remark], as_json: bool) -> None:
    unsolved = [remark.place for remark in remarks if remark.is_kept]
    if unsolved:
        more = f" and {len(unsolved) - _NAMED:,} more" if len(unsolved) > _NAMED else ""
        click.echo(f"No solution is known of {', '.join(unsolved[:_NAMED])}{more}.", err=as_json)


def _print(made: Curated) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("environment")
    for heading in ("train", "test", "mean difficulty"):
        table.add_column(heading, justify="right")
    table.add_column("passed over", overflow="fold")
    for part in made.chosen:
        mean = _mean_difficulty(part)
        passed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(part.passed_over.items()))
        shown = "–" if mean is None else f"{mean:.2f}"
        table.add_row(part.env_name, f"{len(part.train):,}", f"{len(part.test):,}", shown, passed)
    print_table(table)
    if made.success_rate is not None:
        click.echo(f"Demonstrations reach their goal in {made.success_rate:.0%} of the episodes.")
    for path in made.files:
        click.echo(f"  {path}")


def _summary(made: Curated) -> dict[str, Any]:
    return {
        "environments": [
            {
                "name": part.env_name,
                "train": len(part.train),
                "test": len(part.test),
                "mean_difficulty": _mean_difficulty(part),
                "passed_over": dict(sorted(part.passed_over.items())),
            }
            for part in made.chosen
        ],
        "success_rate": made.success_rate,
        "files": [str(path) for path in made.files],
    }


def _mean_difficulty(part: Chosen) -> float | None:
    known = [problem.difficulty for problem in (*part.train, *part.test) if problem.difficulty is not None]
    return sum(known) / len(known) if known else None


def _name_and_weight(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        return name, float(weight) if weight else 1.0
    except ValueError:
        raise click.BadParameter(
            f"'{weight}' is no weight; write for instance sokoban=2.", param_hint="NAME"
        ) from None


def _spread(values: Sequence[T], number: int, option: str, default: T) -> list[T]:
    """Return a value for each environment, from none, one for all, or one for each."""
    if len(values) in (0, 1):
        return [values[0] if values else default] * number
    if len(values) != number:
        raise click.BadParameter(
            f"give it once, or for each of the {number} environments.", param_hint=option
        )
    return list(values)


def _parse_kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs = orjson.loads(text)
    except orjson.JSONDecodeError as malformed:
        raise click.BadParameter(f"not JSON: {malformed}", param_hint="--env-kwargs") from None
    if not isinstance(kwargs, dict):
        raise click.BadParameter("not a JSON object", param_hint="--env-kwargs")
    return kwargs
