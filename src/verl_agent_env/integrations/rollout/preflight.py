"""A check before the training starts: the server creates every kind of environment in the data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import orjson

from verl_agent_env.client import EnvClient, ServerUnreachableError
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.options import DATA_KEY, RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec

logger = logging.getLogger(__name__)

_DEADLINE_S = 30.0
_MAX_KINDS = 32
"""Largest number of environments that are created as a check."""


def check_server(options: RolloutOptions, specs: Sequence[EpisodeSpec]) -> None:
    """Create one environment of each kind in the data, and close it.

    Raises:
        TrainingSetupError: The server cannot be reached, or it does not know an environment or an argument.
    """
    with EnvClient(options.url, token=options.token, deadline_s=_DEADLINE_S) as client:
        for spec in _kinds(specs):
            try:
                env = client.make(spec.env_name, seed=spec.seed, env_kwargs=spec.env_kwargs)
                with env:
                    tools = env.tools() if spec.tools is not None else None
            except ServerUnreachableError as error:
                raise no_server(error) from error
            except VerlAgentEnvError as error:
                raise TrainingSetupError(
                    f"The server at {options.url} does not make '{spec.env_name}' as the data wants it: {error}"
                ) from error
            if tools != spec.tools:
                logger.warning(
                    "the server's '%s' has other tools than the data: curate it anew with this version",
                    spec.env_name,
                )


def no_server(error: ServerUnreachableError) -> TrainingSetupError:
    """Return the error that says how to name a server, where none was reached."""
    return TrainingSetupError(
        f"{error} Start one, and say where it is with ++data.{DATA_KEY}.url=http://host:port."
    )


def _kinds(specs: Sequence[EpisodeSpec]) -> Iterator[EpisodeSpec]:
    """Yield one row for each environment and arguments, up to a limit."""
    seen: set[tuple[str, bytes]] = set()
    for spec in specs:
        key = (spec.env_name, orjson.dumps(spec.env_kwargs, option=orjson.OPT_SORT_KEYS))
        if key not in seen:
            seen.add(key)
            yield spec
        if len(seen) >= _MAX_KINDS:
            return
