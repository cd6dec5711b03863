"""Agent loops of verl by the thousand, with a model that answers at once: what is left is what the episodes cost.

``python -m loadtests.bench_verl --episodes 10000`` plays the same episodes in three ways: with the steps of all of them
gathered into shared requests, with a request for each step, and without a server at all, the environment's answers
from memory. What the first two take longer than the third is the time spent on the environment. Without ``--url`` a
server of one process is started. Needs verl.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from loadtests.processes import cpu_of_tree, serving

with warnings.catch_warnings():
    # What verl brings warns of its own affairs.
    warnings.simplefilter("ignore")
    from verl.workers.rollout.replica import TokenOutput

    from loadtests.verl_stand_ins import agent_loop, data_config, trainer_config
    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer
    from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop
    from verl_agent_env.integrations.verl.rollout.shared import shared

from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.types import Info, Observation, StepResult

if TYPE_CHECKING:
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

_LAKE: dict[str, Any] = {"size": 8, "frozen_prob": 1.0, "random_start_and_goal": True}
"""Some four thousand different maps without holes."""
_FUNCTION = {"name": "move_right", "arguments": "{}"}
_CALL = '<tool_call>\n{"name": "move_right", "arguments": {}}\n</tool_call>'


class InstantModel:
    """Says the same thing at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._ids = [*tokenizer.encode(_CALL), tokenizer.eos_token_id]
        self._fields = {"global_steps": 0, "min_global_steps": 0, "max_global_steps": 0}

    async def generate(self, **_: Any) -> TokenOutput:
        ids = self._ids
        return TokenOutput(token_ids=ids, log_probs=[0.0] * len(ids), extra_fields=self._fields)


class Recorded(NamedTuple):
    """What an environment said in one episode."""

    first: Observation
    results: list[StepResult]


class RememberedEnv:
    """Answers as an environment did that is here no more."""

    num_retries = 0

    def __init__(self, episode: Recorded) -> None:
        self._first = episode.first
        self._results = iter(episode.results)

    async def reset(self) -> tuple[Observation, Info]:
        return self._first, {}

    async def step(self, _: Any) -> StepResult:
        return next(self._results)

    async def close(self) -> None:
        """There is nothing to close."""


class Memory:
    """In place of a client: gives environments that only remember."""

    def __init__(self, episodes: Sequence[Recorded]) -> None:
        self._episodes = episodes

    def make(self, *_: Any, seed: int, **__: Any) -> RememberedEnv:
        return RememberedEnv(self._episodes[seed])


class Measured(NamedTuple):
    """One way of playing all episodes."""

    way: str
    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    reward: float


async def measure(url: str, pid: int | None, episodes: int, turns: int) -> list[Measured]:
    """Play in each way.

    Args:
        url: Of the server.
        pid: Its process, whose CPU is counted with that of its children.
        episodes: At once.
        turns: Of each episode.
    """
    async with AsyncEnvClient(url) as client:
        async with client.make("frozen_lake", seed=0, env_kwargs=_LAKE) as env:
            tools = await env.tools()
        recorded = await asyncio.gather(*(_record(client, seed, turns) for seed in range(episodes)))
    memory: Any = Memory(recorded)

    class WithoutServer(EnvAgentLoop):
        def client(self) -> AsyncEnvClient:
            return memory  # type: ignore[no-any-return]

    tokenizer = byte_tokenizer()
    encoded = {"env_kwargs": orjson.dumps(_LAKE).decode(), "tools": orjson.dumps(tools).decode()}
    rows = [
        {"index": i, "extra_info": {"index": i, "seed": i, "env_name": "frozen_lake", **encoded}}
        for i in range(episodes)
    ]
    # What is only done once, such as starting threads, is done before.
    options = {"url": url, "max_turns": turns}
    await _play("", rows[:50], tokenizer, options, None, EnvAgentLoop)
    plain = {**options, "micro_batching": False}
    return [
        await _play("from memory", rows, tokenizer, options, pid, WithoutServer),
        await _play("shared requests", rows, tokenizer, options, pid, EnvAgentLoop),
        await _play("a request per step", rows, tokenizer, plain, pid, EnvAgentLoop),
    ]


async def _record(client: AsyncEnvClient, seed: int, turns: int) -> Recorded:
    """What the environment says in the episode of this seed."""
    async with client.make("frozen_lake", seed=seed, env_kwargs=_LAKE) as env:
        first, _ = await env.reset()
        results: list[StepResult] = []
        while len(results) < turns and not (results and results[-1].terminated):
            call = {"id": f"call_{len(results)}_0", "type": "function", "function": _FUNCTION}
            results.append(await env.step({"role": "assistant", "content": "", "tool_calls": [call]}))
        return Recorded(first, results)


async def _play(
    way: str,
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    options: dict[str, Any],
    pid: int | None,
    loop_class: type[EnvAgentLoop],
) -> Measured:
    model, trainer, data = InstantModel(tokenizer), trainer_config(), data_config(options)

    async def episode(row: dict[str, Any]) -> AgentLoopOutput:
        loop = agent_loop(model, tokenizer, trainer, data, loop_class=loop_class)
        return await loop.run({"temperature": 1.0}, **row)

    served, cpu, began = cpu_of_tree(pid) if pid else 0.0, time.process_time(), time.perf_counter()
    outputs = await asyncio.gather(*map(episode, rows))
    measured = Measured(
        way,
        time.perf_counter() - began,
        time.process_time() - cpu,
        (cpu_of_tree(pid) if pid else 0.0) - served,
        sum(output.reward_score for output in outputs) / len(outputs),
    )
    await shared().close()
    return measured


def print_table(runs: Sequence[Measured], episodes: int, turns: int) -> None:
    """Print what each way takes, and its share of time on the environment."""
    table = Table(title=f"{episodes:,} episodes at once, {turns} turns each")
    for column in (
        "environment",
        "episodes/s",
        "wall s",
        "client CPU s",
        "server CPU s",
        "on the environment",
    ):
        table.add_column(column, justify="left" if column == "environment" else "right")
    bare = runs[0].wall_s
    for run in runs:
        share = max(0.0, 1 - bare / run.wall_s)
        table.add_row(
            run.way,
            f"{episodes / run.wall_s:,.0f}",
            *(f"{value:.2f}" for value in (run.wall_s, run.client_cpu_s, run.server_cpu_s)),
            "–" if run is runs[0] else f"{share:.0%} ({run.wall_s - bare:.2f} s)",
        )
    Console().print(table)


@contextlib.contextmanager
def _server(url: str | None, pid: int | None) -> Iterator[tuple[str, int | None]]:
    if url is not None:
        yield url, pid
        return
    with serving() as started:
        yield f"http://127.0.0.1:{started.port}", started.pid


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="of the server; one is started if not given")
    parser.add_argument("--pid", type=int, help="of the server")
    parser.add_argument("--episodes", type=int, default=10_000, help="at once (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="of each episode (default: %(default)s)")
    options = parser.parse_args()
    with _server(options.url, options.pid) as (url, pid):
        runs = asyncio.run(measure(url, pid, options.episodes, options.turns))
    print_table(runs, options.episodes, options.turns)


if __name__ == "__main__":
    main()
