"""``verl-agent-env envs``: find an environment by words, tags and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click
from rich.table import Table
from rich.text import Text

from verl_agent_env.cli.env_names import complete_tag
from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.terminal import print_table
from verl_agent_env.envs.registry import Registry, default_registry
from verl_agent_env.envs.search import find, rows
from verl_agent_env.envs.spec import EnvSpec


@click.command("envs")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    shell_complete=complete_tag,
    help="Only those with this tag; with all of several.",
)
@click.option(
    "--max-ms", type=float, metavar="MS", help="Only those whose calls were measured to take no longer."
)
@click.option("--installed", is_flag=True, help="Only those whose packages are installed here.")
@click.option("--count-tags", is_flag=True, help="Count the tags of what was found, instead of listing it.")
@json_option("Print the rows, or the counts of the tags, as JSON.")
def envs(
    words: tuple[str, ...],
    tags: tuple[str, ...],
    max_ms: float | None,
    installed: bool,
    count_tags: bool,
    as_json: bool,
) -> None:
    """List the environments that have each WORD in their name, description or tags; all of them without.

    Those of packages that are not installed are listed as well, with the extra that installs them.
    """
    registry = default_registry()
    specs = registry.specs() if installed else registry.all_specs()
    found = find(specs, words, tags, max_ms)
    if as_json:
        print_json(_counted_tags(found) if count_tags else rows(found, registry))
        return
    print_table(_tags_table(found) if count_tags else _specs_table(found, registry))
    click.echo(f"{len(found)} of {len(specs)} environments")


def _specs_table(found: Sequence[EnvSpec], registry: Registry) -> Table:
    here = set(registry.names())
    table = Table(box=None, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("ms", justify="right")
    table.add_column("tags", overflow="fold")
    table.add_column("what it is", overflow="fold")
    for spec in found:
        cost = "–" if spec.costs is None else f"{spec.costs.highest_ms:.2g}"
        is_missing = spec.family is not None and spec.name not in here
        shown = Text(_description(spec, registry))
        if is_missing and spec.family:
            shown.append(f" (needs the extra {spec.family.extra})", "dim")
        table.add_row(spec.name, cost, " ".join(spec.tags), shown)
    return table


def _description(spec: EnvSpec, registry: Registry) -> str:
    if spec.description:
        return spec.description
    try:
        return registry.kind(spec.name).description
    except ImportError as broken:
        return f"cannot be imported: {broken}"


def _tags_table(found: Sequence[EnvSpec]) -> Table:
    table = Table("tag", "environments", box=None, header_style="bold")
    for tag, count in _counted_tags(found).items():
        table.add_row(tag, f"{count}")
    return table


def _counted_tags(found: Sequence[EnvSpec]) -> dict[str, int]:
    return dict(Counter(tag for spec in found for tag in spec.tags).most_common())
