"""Conversion of batch requests for new environments into the engine's requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verl_agent_env.engine import AwaitableOrValue, Created, CreateRequest
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import RequestError
from verl_agent_env.wire.large_bodies import Turn
from verl_agent_env.wire.schemas import BatchInitializeRequest

logger = logging.getLogger(__name__)

Create = Callable[[CreateRequest], AwaitableOrValue[Created]]
"""Makes an environment, here or on another worker."""

_ITEMS = 8192
"""Requests that are made in one turn: some milliseconds."""


async def create_requests(wanted: BatchInitializeRequest, turn: Turn, tag: str = "") -> list[CreateRequest]:
    """Make a request for each environment of the batch, with turns for others; their holder has the ``tag``."""
    size = wanted.size
    names = wanted.env_names if wanted.env_names is not None else [wanted.env_name or ""] * size
    seeds: Sequence[int | None] = wanted.seeds if wanted.seeds is not None else [None] * size
    kwargs = wanted.env_kwargs if isinstance(wanted.env_kwargs, list) else [wanted.env_kwargs or {}] * size
    requests: list[CreateRequest] = []
    for number, (name, seed, env_kwargs) in enumerate(zip(names, seeds, kwargs, strict=True), 1):
        requests.append(CreateRequest(name, seed, env_kwargs, wanted.run_id, wanted.ttl_s, tag=tag))
        if number % _ITEMS == 0:
            await turn()
    return requests


def fault_of(registry: Registry, env_name: str, env_kwargs: Mapping[str, Any]) -> RequestError | None:
    """Find what is wrong with a name or its arguments, before anything is made of them."""
    try:
        registry.kind(env_name).validate(env_kwargs)
    except RequestError as error:
        return error.as_result()
    except Exception:
        # The environment's own code: making it fails too, and says so.
        logger.warning(
            "checking the arguments of an environment failed", exc_info=True, extra={"env_name": env_name}
        )
    return None
