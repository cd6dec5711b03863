"""``verl-agent-env curate``: data sets for verl."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verl_agent_env.integrations.datasets import Component, Curated, CurationPlan, curate

T = TypeVar("T")

_ONCE_OR_EACH = "Given once it counts for all environments; given for each, in order, for its own."


@click.command("curate")
@click.argument("env_names", metavar="NAME[=WEIGHT]...", nargs=-1, required=True)
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
    help="Problems of one's own instead of those from seeds: a JSON object of keyword arguments on each line of the "
    f"file. {_ONCE_OR_EACH}",
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
    help="Problems in a row without one to keep, after which the search is given up.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="all processors",
    help="Processes; they change nothing but the time.",
)
def curate_command(
    env_names: tuple[str, ...],
    out: Path,
    env_kwargs: tuple[str, ...],
    problems: tuple[Path, ...],
    min_difficulty: tuple[float, ...],
    max_difficulty: tuple[float, ...],
    workers: int,
    **options: Any,
) -> None:
    """Make a data set for verl of the environments NAME..., mixed by their weights.

    Training and test rows have different layouts, which are told apart by their hash, and equal arguments give equal
    files. Needs pyarrow, which comes with the extra 'curate'.
    """
    number = len(env_names)
    plan = CurationPlan(
        tuple(
            Component(name, weight, kwargs, given, lowest, highest)
            for (name, weight), kwargs, given, lowest, highest in zip(
                map(_name_and_weight, env_names),
                _spread([_parse_kwargs(text) for text in env_kwargs], number, "--env-kwargs", {}),
                _spread([_read_problems(path) for path in problems], number, "--problems", None),
                _spread(min_difficulty, number, "--min-difficulty", None),
                _spread(max_difficulty, number, "--max-difficulty", None),
                strict=True,
            )
        ),
        **options,
    )
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("rows", total=plan.train + plan.test + plan.demonstrations)
        made = curate(plan, out, workers=workers, progress=lambda count: bar.advance(task, count))
    _print(made, console)


def _print(made: Curated, console: Console) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("environment")
    for heading in ("train", "test", "mean difficulty"):
        table.add_column(heading, justify="right")
    table.add_column("passed over", overflow="fold")
    for part in made.chosen:
        known = [
            problem.difficulty for problem in (*part.train, *part.test) if problem.difficulty is not None
        ]
        passed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(part.passed_over.items()))
        mean = f"{sum(known) / len(known):.2f}" if known else "–"
        table.add_row(part.env_name, f"{len(part.train):,}", f"{len(part.test):,}", mean, passed)
    console.print(table)
    if made.success_rate is not None:
        console.print(f"Demonstrations reach their goal in {made.success_rate:.0%} of the episodes.")
    for path in made.files:
        console.print(f"  {path}", highlight=False, soft_wrap=True)


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


def _read_problems(path: Path) -> tuple[dict[str, Any], ...]:
    problems = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            problem = orjson.loads(line)
        except orjson.JSONDecodeError:
            problem = None
        if not isinstance(problem, dict):
            raise click.BadParameter(f"line {number} of {path} is no JSON object.", param_hint="--problems")
        problems.append(problem)
    return tuple(problems)
