"""``verl-agent-env wrap``: write the adapter of a Gymnasium environment that needs words."""

from __future__ import annotations

import re
from pathlib import Path

import click
import gymnasium
from gymnasium import spaces

_TEMPLATE = '''\
"""{env_id}, in words."""

from __future__ import annotations

from typing import Any, ClassVar

from verl_agent_env.envs.catalogue.gymnasium_text.env import GymnasiumTextEnv


class {class_name}(GymnasiumTextEnv):
    """Act in {env_id}, whose observations and actions this class puts into words.

    ## Action Space

    One tool, ``act``; its names are ``action_names``.

    ## Observation

    As ``describe`` says it.

    ## Rewards

    Those of {env_id}.

    ## Episode End

    As in {env_id}; truncated after ``max_steps`` moves at the latest.

    ## Arguments

    See :class:`GymnasiumTextArguments`.
    """

    env_name = "{env_name}"
    env_id = "{env_id}"
    # Whether seed and actions determine an episode: then it can be played again after its worker was lost.
    deterministic: ClassVar[bool] = False
    # A name for each action, in the order of their numbers; {actions}.
    action_names = {names}

    __slots__ = ()

    def task_prompt_text(self) -> str:
        return "Say here what has to be done. Each turn, call the tool act with one of its actions."

    def describe(self, observation: Any) -> str:
        # {observations}
        return f"You see: {{observation}}"
'''


@click.command("wrap")
@click.argument("env_id", metavar="ID")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; by the ID without it."
)
@click.option("--name", "env_name", metavar="NAME", help="The name to register, such as acme/cart_pole-v1.")
def wrap(env_id: str, out: Path | None, env_name: str | None) -> None:
    """Write an adapter of the Gymnasium environment ID into one Python file, to be filled in with words.

    It runs as it is. An environment whose spaces have words already needs none: its name is gymnasium_text/ID.
    """
    try:
        env = gymnasium.make(env_id, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as unknown:
        raise click.ClickException(str(unknown)) from None
    short = re.sub(r"\W+", "_", re.sub(r"-v\d+$", "", env_id.rpartition("/")[2]))
    actions = env.action_space
    env.close()
    if not isinstance(actions, spaces.Discrete | spaces.Text | spaces.Dict):
        raise click.ClickException(
            f"the actions of {env_id} are {actions}: only Discrete, Text and Dict have names"
        )
    count = int(actions.n) if isinstance(actions, spaces.Discrete) else 0
    out = out or Path(f"{short.casefold()}_in_words.py")
    if out.exists():
        raise click.ClickException(f"{out} exists already")
    text = _TEMPLATE.format(
        env_id=env_id,
        class_name=f"{short}Env",
        env_name=env_name or f"local/{short.casefold()}-v0",
        actions=f"{actions}",
        names=tuple(f"action_{number}" for number in range(count)),
        observations=f"An observation is one of {env.observation_space}".replace("\n", " "),
    )
    out.write_text(text, encoding="utf-8")
    click.echo(
        f"Wrote {out}. Fill in its words, and register it as an entry point (CONTRIBUTING.md shows how)."
    )
