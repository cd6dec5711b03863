"""Rows of the tasks that a server lists, for a trainer that reads them where its environments run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from verl_agent_env.client import Env, EnvClient, ServerUnreachableError
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.integrations.datasets.problems import Problem
from verl_agent_env.integrations.datasets.tables import row_of
from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.preflight import no_server
from verl_agent_env.messages import content_text
from verl_agent_env.messages.content import shows_picture

TASK_PREFIX = "tasks:"
"""Begins the name of a list of tasks, ``tasks:ENV_NAME/SPLIT``, where otherwise a file is named."""

_DEADLINE_S = 60.0
_ENVS_AT_ONCE = 256
"""Environments that are live at once to see how their episodes begin."""


def is_task_reference(name: str) -> bool:
    """Tell whether a name stands for tasks of the server, and not for a file."""
    return name.startswith(TASK_PREFIX)


def rows_of_tasks(reference: str, options: RolloutOptions, limit: int | None) -> list[dict[str, Any]]:
    """Return a row for each task of a split, with the first messages that the server shows for it.

    Args:
        reference: ``tasks:ENV_NAME/SPLIT``.
        options: With the server's URL and token.
        limit: Largest number of tasks; all of them if not given.

    Raises:
        TrainingSetupError: The name is none of a split, the split has no end, or the server does not have it.
    """
    env_name, _, split = reference.removeprefix(TASK_PREFIX).rpartition("/")
    if not env_name or not split:
        raise TrainingSetupError(f"'{reference}' names no tasks: write tasks:ENV_NAME/SPLIT.")
    try:
        with EnvClient(options.url, token=options.token, deadline_s=_DEADLINE_S) as client:
            rows = list(_rows(client, env_name, split, client.tasks(env_name, split, limit=limit)))
    except ServerUnreachableError as error:
        raise no_server(error) from error
    except VerlAgentEnvError as error:
        raise TrainingSetupError(
            f"The server at {options.url} does not give '{reference}': {error}"
        ) from error
    except ValueError:
        raise TrainingSetupError(
            f"The tasks of '{reference}' have no end: say how many with data.train_max_samples or data.val_max_samples."
        ) from None
    if not rows:
        raise TrainingSetupError(f"The split '{split}' of '{env_name}' has no tasks.")
    for index, row in enumerate(rows):
        row["extra_info"]["index"] = index
    return rows


def _rows(
    client: EnvClient, env_name: str, split: str, tasks: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    tools: dict[str, str] = {}
    full_name = ""
    for start in range(0, len(tasks), _ENVS_AT_ONCE):
        part = tasks[start : start + _ENVS_AT_ONCE]
        made = client.make_many(env_name, tasks=part)
        envs = [env for env in made if isinstance(env, Env)]
        try:
            for task, env in zip(part, made, strict=True):
                if isinstance(env, VerlAgentEnvError):
                    raise env
                env_kwargs = orjson.dumps(task["env_kwargs"], option=orjson.OPT_SORT_KEYS).decode()
                if env_kwargs not in tools:
                    tools[env_kwargs] = orjson.dumps(env.tools()).decode()
                full_name = full_name or str(env.state()["env_name"])
                yield row_of(full_name, _problem(task, env, env_kwargs, tools[env_kwargs]), split, None)
        finally:
            client.close_batch(envs)


def _problem(task: Mapping[str, Any], env: Env, env_kwargs: str, tools: str) -> Problem:
    observation, _ = env.reset()
    prompt = [
        {"role": message["role"], "content": content_text(message["content"])} for message in observation
    ]
    return Problem(
        int(task["seed"]), "", None, env_kwargs, tools, prompt, any(map(shows_picture, observation))
    )
