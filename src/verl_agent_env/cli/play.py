"""``verl-agent-env play``: an episode in the terminal, by hand or by a simple policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import orjson
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from verl_agent_env.cli.env_names import complete_env_name
from verl_agent_env.cli.terminal import plain_console
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.messages import content_text
from verl_agent_env.types import Action, Observation

_QUIT = frozenset({"quit", "exit", "q"})


@click.command()
@click.argument("env_name", shell_complete=complete_env_name)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the first episode; random when not given.")
@click.option(
    "--kwargs", "env_kwargs", default="{}", metavar="JSON", help="Keyword arguments of the environment."
)
@click.option(
    "--policy",
    type=click.Choice(["human", "random", "solver"]),
    default="human",
    show_default=True,
    help="Who plays: you, random actions, or the environment's own solver.",
)
@click.option(
    "--episodes", type=click.IntRange(min=1), default=1, show_default=True, help="How many to play."
)
def play(env_name: str, seed: int | None, env_kwargs: str, policy: str, episodes: int) -> None:
    """Play ENV_NAME in the terminal.

    By hand, type what a model would write: a word such as 'up', or '<answer>up || left</answer>'. 'quit' ends.
    """
    env = _make(default_registry().kind(env_name), parse_kwargs(env_kwargs))
    console = plain_console()
    env.action_space.seed(seed)
    rewards = []
    try:
        for number in range(episodes):
            observation, _ = env.reset(seed=seed if number == 0 else None)
            console.rule(f"episode {number + 1}, seed {env.episode_seed}")
            rewards.append(_play_episode(env, observation, policy, console))
    except _QuitError:
        console.print("Left the game.")
    finally:
        env.close()
    if len(rewards) > 1:
        console.print(f"{len(rewards)} episodes, mean reward {sum(rewards) / len(rewards):.3f}")


def parse_kwargs(text: str) -> dict[str, Any]:
    """Parse a JSON object given on the command line.

    Raises:
        click.BadParameter: The text is no JSON object.
    """
    try:
        kwargs = orjson.loads(text)
    except orjson.JSONDecodeError as malformed:
        raise click.BadParameter(f"not JSON: {malformed}", param_hint="--kwargs") from None
    if not isinstance(kwargs, dict):
        raise click.BadParameter("not a JSON object", param_hint="--kwargs")
    return kwargs


class _QuitError(Exception):
    """The player entered ``quit``."""


def _make(kind: EnvKind, env_kwargs: dict[str, Any]) -> ChatEnv:
    env = kind.build(kind.validate(env_kwargs))
    if not isinstance(env, ChatEnv):
        raise click.ClickException(
            f"'{kind.name}' is not a chat environment of this package's kind; it cannot be played."
        )
    return env


def _play_episode(env: ChatEnv, observation: Observation, policy: str, console: Console) -> float:
    total = 0.0
    _show(observation, console)
    for action in _actions(env, policy, console):
        observation, reward, terminated, truncated, info = env.step(action)
        total += reward
        if policy != "human":
            console.print(f"> {_shorten(action)}", style="bold")
        _show(observation, console)
        console.print(f"reward {reward:g}, total {total:g}", style="dim")
        if terminated or truncated:
            console.print(Text("solved", "green") if info["success"] else Text("not solved", "red"))
            break
    return total


def _actions(env: ChatEnv, policy: str, console: Console) -> Iterator[Action]:
    if policy == "solver":
        solution = env.solution()
        if solution is None:
            raise click.ClickException(
                "No solution is known from here; try --policy random, or another seed."
            )
        yield from solution
        return
    while True:
        yield env.action_space.sample() if policy == "random" else _ask(console)


def _ask(console: Console) -> str:
    try:
        answer = console.input(Text("> ", "bold"))
    except EOFError:
        raise _QuitError from None
    if answer.strip().casefold() in _QUIT:
        raise _QuitError
    return answer


def _show(observation: Observation, console: Console) -> None:
    for message in observation:
        console.print(
            Panel(content_text(message["content"]).expandtabs(2), title=message["role"], title_align="left")
        )


def _shorten(action: Action) -> str:
    if isinstance(action, dict) and action.get("tool_calls"):
        calls = [call["function"] for call in action["tool_calls"]]
        return ", ".join(
            f"{call['name']}({'' if call['arguments'] == '{}' else call['arguments']})" for call in calls
        )
    return content_text(action.get("content")) if isinstance(action, dict) else str(action)
