"""Plays a plan, and keeps what came of it so that an interrupted run can go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import orjson

from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.evaluation.episodes import Episode, Plan, play_one
from verl_agent_env.evaluation.model import ChatModel, ModelRefusedError

PLAN_FILE, EPISODES_FILE, PAGE_FILE = "plan.json", "episodes.jsonl", "episodes.html"


async def evaluate(
    plan: Plan,
    client: AsyncEnvClient,
    model: ChatModel,
    out: Path,
    *,
    concurrency: int = 16,
    on_episode: Callable[[Episode], None] = lambda _: None,
) -> list[Episode]:
    """Play what is not played yet; gives all episodes in order of their seeds.

    Each is written to ``out`` as it ends. Those that could not be played are tried again by the next run.

    Args:
        plan: What to play.
        client: Of the server.
        model: Who plays.
        out: Folder of this plan.
        concurrency: Episodes at once.
        on_episode: Told each episode, those of earlier runs first.

    Raises:
        ValueError: The folder holds another plan.
        ModelRefusedError: The endpoint refuses; what was played is kept.
    """
    done = open_folder(plan, out)
    for episode in done.values():
        on_episode(episode)
    left = iter([seed for seed in plan.seeds if seed not in done])

    async def play_some() -> None:
        for seed in left:
            done[seed] = episode = await play_one(client, model, plan, seed)
            file.write(episode.to_json() + b"\n")
            file.flush()
            on_episode(episode)

    with (out / EPISODES_FILE).open("ab") as file:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(play_some())
        except* ModelRefusedError as failures:
            # One reason is enough: they fail alike.
            raise failures.exceptions[0] from None
    return [done[seed] for seed in plan.seeds]


def open_folder(plan: Plan, out: Path) -> dict[int, Episode]:
    """Make the folder of a plan, or go on with it; gives the episodes that were played.

    Raises:
        ValueError: The folder holds another plan, or something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept, episodes = out / PLAN_FILE, out / EPISODES_FILE
    if not kept.exists():
        if any(out.iterdir()):
            raise ValueError(f"'{out}' holds other files: choose an empty folder")
        kept.write_bytes(plan.to_json())
        return {}
    if orjson.loads(kept.read_bytes()) != orjson.loads(plan.to_json()):
        raise ValueError(
            f"'{out}' holds an evaluation with other arguments, see {kept}: choose another folder"
        )
    played: dict[int, Episode] = {}
    for line in episodes.read_bytes().splitlines() if episodes.exists() else []:
        try:
            episode = Episode.from_json(line)
        except ValueError:
            # The run was ended while it wrote this.
            continue
        if episode.outcome != "not_played":
            played[episode.seed] = episode
    text = b"".join(episode.to_json() + b"\n" for episode in played.values())
    part = episodes.with_suffix(".part")
    part.write_bytes(text)
    part.replace(episodes)
    return played
