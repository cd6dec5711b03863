"""``verl-agent-env check-env``: checks of environments of other packages."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from verl_agent_env.cli.env_names import complete_env_name
from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.play import parse_kwargs
from verl_agent_env.cli.terminal import plain_console, print_table
from verl_agent_env.envs.checker import CheckReport, check_environment
from verl_agent_env.envs.registry import default_registry


@click.command("check-env")
@click.argument("env_names", metavar="NAME...", nargs=-1, shell_complete=complete_env_name)
@click.option("--all", "check_all", is_flag=True, help="Check every registered environment.")
@click.option(
    "--kwargs", "env_kwargs", default="{}", metavar="JSON", help="Keyword arguments of the environment."
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=60, show_default=True, help="Steps of each episode."
)
@json_option("Print the reports as JSON.")
def check_env(
    env_names: tuple[str, ...], check_all: bool, env_kwargs: str, steps: int, as_json: bool
) -> None:
    """Check the environments NAME...: Gymnasium's contract and this project's.

    Determinism in and across processes, snapshots, malformed actions, schemas, no solution in the info; the cost of a
    step and the memory of an instance are printed. Exit code 1 when a check fails.
    """
    names = default_registry().names() if check_all else list(env_names)
    if not names:
        raise click.UsageError("Name an environment, or give --all; 'verl-agent-env list' shows the names.")
    kwargs = parse_kwargs(env_kwargs)
    console = plain_console(stderr=as_json)
    reports = []
    for name in names:
        reports.append(_check(name, kwargs, steps, console))
        if not as_json:
            _print(reports[-1])
    if as_json:
        print_json(reports)
    sys.exit(0 if all(report.passed for report in reports) else 1)


def _check(name: str, kwargs: dict[str, Any], steps: int, console: Console) -> CheckReport:
    columns = (
        TextColumn("{task.fields[env_name]}", markup=False),
        BarColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", env_name=name)

        def show(check: str, number: int, total: int) -> None:
            progress.update(task, description=check, completed=number - 1, total=total)

        return check_environment(name, kwargs, num_steps=steps, progress=show)


def _print(report: CheckReport) -> None:
    table = Table(title=report.env_name, title_justify="left", header_style="bold", box=None)
    table.add_column("", width=4)
    table.add_column("check", no_wrap=True)
    table.add_column("what was seen", overflow="fold")
    for result in report.results:
        mark = (
            Text("–", "dim")
            if result.skipped
            else (Text("ok", "green") if result.passed else Text("FAIL", "red"))
        )
        table.add_row(mark, result.name, result.detail)
    print_table(table)
    figures = report.figures
    known = {
        "µs per step": figures.us_per_step,
        "µs per reset": figures.us_per_reset,
        "bytes per instance": figures.bytes_per_instance,
        "bytes per snapshot": figures.snapshot_bytes,
    }
    shown = ", ".join(f"{value:,.1f} {unit}" for unit, value in known.items() if value is not None)
    click.echo(f"     {shown}\n")
