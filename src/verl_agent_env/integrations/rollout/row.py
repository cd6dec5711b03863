"""The part of a data set's row that defines an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from verl_agent_env.integrations.errors import TrainingSetupError

AGENT_NAME = "env_agent"
"""Name of the agent loop, in the rows' ``agent_name`` and in its configuration."""

HOW_TO_MAKE = "make the data with 'verl-agent-env curate'"


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """The definition of an episode; equal ones give equal episodes."""

    env_name: str
    seed: int
    env_kwargs: dict[str, Any]
    tools: list[dict[str, Any]] | None
    """Tools in OpenAI's schema; ``None`` if they have to be read from the environment."""
    system_prompt: str | None
    takes_images: bool
    """True if the environment is known to show pictures."""
    greedy: bool
    """True for greedy decoding, whatever the sampling parameters are."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> EpisodeSpec:
        """Read ``extra_info`` of a row; a row without a seed takes its index.

        Raises:
            TrainingSetupError: The row does not define an episode.
        """
        extra = row.get("extra_info")
        if not isinstance(extra, Mapping) or not isinstance(extra.get("env_name"), str):
            raise TrainingSetupError(f"A row has no 'env_name' in its 'extra_info': {HOW_TO_MAKE}.")
        seed = extra.get("seed")
        if seed is None:
            # All samples of a group come from one row, so they share the seed.
            seed = extra.get("index", row.get("index", 0))
        kwargs = _decoded(extra.get("env_kwargs"), "env_kwargs")
        tools = _decoded(extra.get("tools"), "tools")
        if not isinstance(kwargs or {}, Mapping) or not isinstance(tools or [], list):
            raise TrainingSetupError(
                f"'env_kwargs' or 'tools' of a row is not what it should be: {HOW_TO_MAKE}."
            )
        return cls(
            extra["env_name"],
            int(seed),
            dict(kwargs or {}),
            tools,
            extra.get("system_prompt") or None,
            bool(extra.get("takes_images")),
            bool(extra.get("greedy")),
        )


def _decoded(value: Any, name: str) -> Any:
    """Decode a column of JSON text; in a column of structures each row would have the keys of all rows."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value) if value else None
    except orjson.JSONDecodeError:
        raise TrainingSetupError(f"'{name}' of a row is not JSON: {HOW_TO_MAKE}.") from None
