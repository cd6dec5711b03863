"""``verl-agent-env eval``: evaluation of a model on an environment of a server."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verl_agent_env.cli.env_names import complete_env_name
from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.play import parse_kwargs
from verl_agent_env.cli.terminal import plain_console, print_table
from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.evaluation import (
    ChatModel,
    EvaluatedEpisode,
    EvaluationPlan,
    ModelRefusedError,
    Summary,
    evaluate,
)
from verl_agent_env.evaluation.model import AnswerFormat
from verl_agent_env.evaluation.page import rows_of, write_page
from verl_agent_env.evaluation.run import PAGE_FILE


@click.command("eval")
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="Of the environments' server."
)
@click.option("--token", envvar="VERL_AGENT_ENV_TOKEN", help="Bearer token, if that server asks for one.")
@click.option("--model", required=True, help="Name of the model at its endpoint.")
@click.option(
    "--base-url",
    help="Of the OpenAI-compatible endpoint; OPENAI_BASE_URL, or OpenAI's own, if not given. The key is taken from "
    "OPENAI_KEY or OPENAI_API_KEY.",
)
@click.option("--env", "env_name", required=True, metavar="NAME", shell_complete=complete_env_name, help="Environment to play.")  # fmt: skip
@click.option("--env-kwargs", default="{}", metavar="JSON", help="Its keyword arguments.")
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed-start", type=click.IntRange(min=0), default=0, show_default=True, help="First seed.")
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=16, show_default=True, help="Episodes at once."
)
@click.option("--max-turns", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help="Tokens of one answer; the endpoint's own limit if not given.",
)
@click.option(
    "--answer-format",
    type=click.Choice(["tools", "text", "json"]),
    default="tools",
    show_default=True,
    help="tools: the model calls the environment's tools. text: it gets none and writes. json: it gets none, and its answer "
    "is held to a JSON Schema of one call (response_format).",
)
@click.option("--temperature", type=float, help="Of sampling; the endpoint's own if not given.")
@click.option("--system-prompt", help="A first message of role system.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/eval"),
    show_default=True,
    help="Folder of the trajectories and of the page to read them; an interrupted run is continued there.",
)
@json_option("Print the summary as JSON.")
def eval_command(
    url: str,
    token: str | None,
    model: str,
    base_url: str | None,
    env_name: str,
    env_kwargs: str,
    episodes: int,
    seed_start: int,
    concurrency: int,
    max_turns: int,
    max_tokens: int | None,
    answer_format: AnswerFormat,
    temperature: float | None,
    system_prompt: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Let a model play many episodes and summarize the results."""
    kwargs = parse_kwargs(env_kwargs)
    plan = EvaluationPlan(
        model,
        env_name,
        episodes,
        seed_start,
        kwargs,
        max_turns,
        temperature,
        system_prompt,
        max_tokens,
        answer_format,
    )
    endpoint = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    key = os.environ.get("OPENAI_KEY") or os.environ.get("OPENAI_API_KEY") or ""
    console = plain_console(stderr=True)

    async def run() -> list[EvaluatedEpisode]:
        asked = ChatModel(
            endpoint,
            model,
            key=key,
            temperature=temperature,
            max_tokens=max_tokens,
            answer_format=answer_format,
        )
        async with AsyncEnvClient(url, token=token) as client, asked:
            # A wrong server or name is said at once, and not once for each episode.
            async with client.make(env_name, env_kwargs=kwargs):
                pass
            return await _shown(plan, client, asked, out, concurrency, console)

    try:
        played = asyncio.run(run())
    except (ModelRefusedError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    (out / PAGE_FILE).write_text(write_page(plan, played), "utf-8")
    summary = Summary.of(played)
    if as_json:
        print_json({**asdict(summary), "success_rate": summary.success_rate, "page": str(out / PAGE_FILE)})
        return
    table = Table(title=f"{model} plays {env_name}", show_header=False)
    for row in rows_of(summary):
        table.add_row(*row)
    print_table(table)
    click.echo(f"To read: {out / PAGE_FILE}")


async def _shown(
    plan: EvaluationPlan,
    client: AsyncEnvClient,
    model: ChatModel,
    out: Path,
    concurrency: int,
    console: Console,
) -> list[EvaluatedEpisode]:
    """Evaluate with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task, successes = progress.add_task("episodes", total=plan.episodes), 0

        def note(episode: EvaluatedEpisode) -> None:
            nonlocal successes
            successes += episode.outcome == "success"
            progress.update(task, advance=1, description=f"episodes, {successes} successes")

        return await evaluate(plan, client, model, out, concurrency=concurrency, on_episode=note)
