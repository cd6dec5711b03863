"""Run of an evaluation, stored so that an interrupted run can be continued."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.evaluation.episodes import EvaluatedEpisode, EvaluationPlan, play_one
from verl_agent_env.evaluation.model import ChatModel, ModelRefusedError

PLAN_FILE, EPISODES_FILE, PAGE_FILE = "plan.json", "episodes.jsonl", "episodes.html"
_LOCK_FILE = ".lock"


async def evaluate(
    plan: EvaluationPlan,
    client: AsyncEnvClient,
    model: ChatModel,
    out: Path,
    *,
    concurrency: int = 16,
    on_episode: Callable[[EvaluatedEpisode], None] = lambda _: None,
) -> list[EvaluatedEpisode]:
    """Play the missing episodes of a plan and return all, in order of their seeds.

    Each episode is written to ``out`` at its end. The next run retries episodes in which the server or the endpoint failed,
    but not those that were refused.

    Args:
        plan: Plan of the evaluation.
        client: Client of the server.
        model: Model that plays.
        out: Folder of this plan.
        concurrency: Number of concurrent episodes.
        on_episode: Called with each episode, those of earlier runs first.

    Raises:
        ValueError: The folder holds another plan, or is in use by another process.
        ModelRefusedError: The endpoint refuses every request; finished episodes are stored.
    """
    with _alone_in(out):
        return await _evaluate(plan, client, model, out, concurrency, on_episode)


async def _evaluate(
    plan: EvaluationPlan,
    client: AsyncEnvClient,
    model: ChatModel,
    out: Path,
    concurrency: int,
    on_episode: Callable[[EvaluatedEpisode], None],
) -> list[EvaluatedEpisode]:
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


def open_folder(plan: EvaluationPlan, out: Path) -> dict[int, EvaluatedEpisode]:
    """Create or reopen the folder of a plan and return the episodes in it.

    Raises:
        ValueError: The folder holds another plan, or other files.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept, episodes = out / PLAN_FILE, out / EPISODES_FILE
    if not kept.exists():
        if any(file.name != _LOCK_FILE for file in out.iterdir()):
            raise ValueError(f"'{out}' holds other files: choose an empty folder")
        kept.write_bytes(plan.to_json())
        return {}
    if EvaluationPlan.from_json(kept.read_bytes()).to_json() != plan.to_json():
        raise ValueError(
            f"'{out}' holds an evaluation with other arguments, see {kept}: choose another folder"
        )
    played: dict[int, EvaluatedEpisode] = {}
    for line in episodes.read_bytes().splitlines() if episodes.exists() else []:
        try:
            episode = EvaluatedEpisode.from_json(line)
        except ValueError:
            # The run was ended while it wrote this.
            continue
        if episode.is_final:
            played[episode.seed] = episode
    text = b"".join(episode.to_json() + b"\n" for episode in played.values())
    part = episodes.with_suffix(".part")
    part.write_bytes(text)
    part.replace(episodes)
    return played


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Create and lock the folder, so that no two processes play the same episodes.

    Raises:
        ValueError: Another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_FILE).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another evaluation is writing to '{folder}': wait for its end, or choose another folder"
            ) from None
        yield
