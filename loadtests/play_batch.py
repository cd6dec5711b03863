"""Play whole episodes against a running server, in batches, and compare its metrics with what was done.

    python -m loadtests.play_batch --url http://127.0.0.1:8000 --episodes 10000

Environments of all kinds are mixed. Every second episode is played by the environment's own solver, the others by
random actions. The solver runs on a twin of the environment in this process: it succeeds only if server and twin agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.types import Action

KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("verl_env/sokoban-v0", {"dim_room": [6, 6], "num_boxes": 1, "max_steps": 60}),
    ("verl_env/sokoban-v0", {"dim_room": [7, 7], "num_boxes": 2, "max_steps": 120}),
    ("verl_env/frozen_lake-v1", {"size": 4, "max_steps": 30}),
    ("verl_env/frozen_lake-v1", {"size": 8, "max_steps": 40}),
    ("verl_env/countdown-v0", {"num_numbers": 4, "max_steps": 3}),
    (
        "verl_env/single_turn_chat-v0",
        {
            "chat_history": [{"role": "user", "content": "What is 6 times 7?"}],
            "scorer": {"type": "exact_match", "answer": "42"},
        },
    ),
)


@dataclass
class Episode:
    """One episode on the server."""

    env_name: str
    env_kwargs: dict[str, Any]
    seed: int
    plan: list[Action]
    """What the solver would do; empty for a random player."""
    twin: ChatEnv
    env_id: str = ""
    seq: int = 0
    ended: bool = False
    success: bool = False

    def next_action(self) -> Action:
        """The solver's next move, or a random one."""
        return self.plan[self.seq] if self.seq < len(self.plan) else self.twin.action_space.sample()


@dataclass
class Tally:
    """What was done, by env name."""

    created: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    solved: Counter[str] = field(default_factory=Counter)
    solvable: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)


def plan_episodes(count: int) -> list[Episode]:
    """Episodes of all kinds in turn, every second one with the solver's plan."""
    registry = default_registry()
    episodes = []
    for number in range(count):
        env_name, env_kwargs = KINDS[number // 2 % len(KINDS)]
        kind = registry.kind(env_name)
        twin = kind.build(kind.validate(env_kwargs))
        if not isinstance(twin, ChatEnv):
            raise TypeError(f"'{env_name}' has no solver")
        plan: list[Action] = []
        if number % 2 == 0:
            twin.reset(seed=number)
            plan = twin.solution() or []
        episodes.append(Episode(env_name, env_kwargs, number, plan, twin))
    return episodes


class Player:
    """Plays episodes over HTTP, a batch at a time."""

    def __init__(self, client: httpx.Client, batch_size: int) -> None:
        self._client = client
        self._batch_size = batch_size
        self.tally = Tally()

    def play(self, episodes: list[Episode], progress: Progress) -> None:
        """Play all episodes from initialize to close."""
        task = progress.add_task("episodes", total=len(episodes))
        for start in range(0, len(episodes), self._batch_size):
            self._initialize(episodes[start : start + self._batch_size])
        running = [episode for episode in episodes if episode.env_id]
        while running:
            for start in range(0, len(running), self._batch_size):
                self._step(running[start : start + self._batch_size])
            progress.advance(task, sum(episode.ended for episode in running))
            running = [episode for episode in running if not episode.ended]
        for start in range(0, len(episodes), self._batch_size):
            self._close(episodes[start : start + self._batch_size])

    def _initialize(self, batch: list[Episode]) -> None:
        answer = self._post(
            "initialize",
            {
                "env_names": [episode.env_name for episode in batch],
                "env_kwargs": [episode.env_kwargs for episode in batch],
                "seeds": [episode.seed for episode in batch],
            },
        )
        for episode, env_id in zip(batch, answer["env_ids"], strict=True):
            if env_id is not None:
                episode.env_id = env_id
                self.tally.created[episode.env_name] += 1
                self.tally.solvable[episode.env_name] += bool(episode.plan)

    def _step(self, batch: list[Episode]) -> None:
        answer = self._post(
            "step",
            {
                "env_ids": [episode.env_id for episode in batch],
                "actions": [episode.next_action() for episode in batch],
                "seqs": [episode.seq for episode in batch],
            },
        )
        columns = zip(batch, answer["terminations"], answer["truncations"], answer["infos"], strict=True)
        for episode, terminated, truncated, info in columns:
            if info is None:
                episode.ended = True
                continue
            self.tally.steps += 1
            episode.seq += 1
            episode.ended = terminated or truncated
            episode.success = info["success"]
            if episode.ended and episode.plan and episode.success:
                self.tally.solved[episode.env_name] += 1

    def _close(self, batch: list[Episode]) -> None:
        answer = self._post("close", {"env_ids": [episode.env_id for episode in batch if episode.env_id]})
        if not answer["errors"]:
            self.tally.closed.update(episode.env_name for episode in batch if episode.env_id)

    def _post(self, call: str, document: dict[str, Any]) -> Any:
        response = self._client.post(f"/api/batch/{call}", content=orjson.dumps(document))
        response.raise_for_status()
        answer = orjson.loads(response.content)
        self.tally.errors.extend(answer["errors"])
        return answer


def read_metrics(client: httpx.Client) -> Counter[tuple[str, str]]:
    """The counts of all workers: what (created, closed, live) and env name to number."""
    names = {
        "verl_agent_env_created_total": "created",
        "verl_agent_env_closed_total": "closed",
        "verl_agent_env_live_environments": "live",
    }
    counts: Counter[tuple[str, str]] = Counter()
    for url in worker_urls(client):
        for family in text_string_to_metric_families(client.get(f"{url}/metrics").text):
            for sample in family.samples:
                if sample.name in names:
                    counts[names[sample.name], sample.labels["env_name"]] += int(sample.value)
    return counts


def worker_urls(client: httpx.Client) -> list[str]:
    """Where each worker of the server answers itself: every one counts what it does."""
    workers = [worker for node in client.get("/api/cluster").json()["nodes"] for worker in node["workers"]]
    return [""] if len(workers) == 1 else [f"http://{worker['address']}" for worker in workers]


def find_disagreements(
    tally: Tally, before: Counter[tuple[str, str]], after: Counter[tuple[str, str]]
) -> list[str]:
    """Where the server's metrics or the solver's success differ from what was done."""
    found = [f"error {error['code']} at position {error['index']}" for error in tally.errors]
    for env_name in {name for name, _ in KINDS}:
        for what, done in (
            ("created", tally.created[env_name]),
            ("closed", tally.closed[env_name]),
            ("live", 0),
        ):
            counted = after[what, env_name] - before[what, env_name]
            if counted != done:
                found.append(f"{env_name}: {done} {what}, the server counts {counted}")
        if tally.solved[env_name] != tally.solvable[env_name]:
            found.append(
                f"{env_name}: the solver solved {tally.solved[env_name]} of {tally.solvable[env_name]}"
            )
    return found


def main() -> None:
    """Play, compare, print; exit code 1 when something disagrees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=10_000, help="per call (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    with console.status("planning the solver's moves"):
        episodes = plan_episodes(options.episodes)
    with httpx.Client(base_url=options.url, timeout=120) as client, Progress(console=console) as progress:
        player = Player(client, options.batch_size)
        before = read_metrics(client)
        began = time.perf_counter()
        player.play(episodes, progress)
        elapsed = time.perf_counter() - began
        disagreements = find_disagreements(player.tally, before, read_metrics(client))
    tally = player.tally
    table = Table("environment", "created", "closed", "solved by the solver", header_style="bold")
    for env_name in tally.created:
        solved = f"{tally.solved[env_name]} of {tally.solvable[env_name]}"
        table.add_row(env_name, str(tally.created[env_name]), str(tally.closed[env_name]), solved)
    console.print(table)
    console.print(f"{tally.steps:,} steps of {len(episodes):,} episodes in {elapsed:.1f} s")
    for line in disagreements[:20]:
        console.print(f"[red]{line}[/red]")
    console.print("The metrics agree." if not disagreements else f"{len(disagreements)} disagreements.")
    sys.exit(1 if disagreements else 0)


if __name__ == "__main__":
    main()
