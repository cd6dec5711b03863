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
        # All samples of a group come from one row, so they share the seed.
        return cls._of(extra, extra["env_name"], _seed_in(extra, row) or 0, {})

    @classmethod
    def from_columns(
        cls, row: Mapping[str, Any], env_name: str | None = None, env_kwargs: Mapping[str, Any] | None = None
    ) -> EpisodeSpec:
        """Read the columns ``env_name``, ``seed`` and ``env_kwargs`` of a row, or its ``extra_info`` where it has one.

        Args:
            row: Of a trainer's data set.
            env_name: Environment of rows that name none.
            env_kwargs: Keyword arguments of all rows; those of a row come on top.

        Raises:
            TrainingSetupError: The row does not define an episode. A row without a seed does not: the samples of its
                group would be of different episodes, or all rows of the same one.
        """
        extra = row.get("extra_info")
        columns = extra if isinstance(extra, Mapping) else row
        name = columns.get("env_name") or env_name
        if not isinstance(name, str):
            raise TrainingSetupError(f"A row has no 'env_name': add such a column, or {HOW_TO_MAKE}.")
        seed = _seed_in(columns, row)
        if seed is None:
            raise TrainingSetupError(
                f"A row of '{name}' has no 'seed': add a column with a number for each row, so that all samples of a "
                f"group play the same episode, or {HOW_TO_MAKE}."
            )
        return cls._of(columns, name, seed, env_kwargs or {})

    @classmethod
    def _of(
        cls, columns: Mapping[str, Any], env_name: str, seed: int, common: Mapping[str, Any]
    ) -> EpisodeSpec:
        kwargs = _decoded(columns.get("env_kwargs"), "env_kwargs")
        tools = _decoded(columns.get("tools"), "tools")
        if not isinstance(kwargs or {}, Mapping) or not isinstance(tools or [], list):
            raise TrainingSetupError(
                f"'env_kwargs' or 'tools' of a row is not what it should be: {HOW_TO_MAKE}."
            )
        return cls(
            env_name,
            seed,
            {**common, **(kwargs or {})},
            tools,
            columns.get("system_prompt") or None,
            bool(columns.get("takes_images")),
            bool(columns.get("greedy")),
        )


def _seed_in(columns: Mapping[str, Any], row: Mapping[str, Any]) -> int | None:
    """Return the seed of a row, its index if it has none.

    Raises:
        TrainingSetupError: It is not a whole number.
    """
    found = (columns.get("seed"), columns.get("index"), row.get("index"))
    seed = next((value for value in found if value is not None), None)
    try:
        return None if seed is None else int(seed)
    except (TypeError, ValueError):
        raise TrainingSetupError(
            f"The seed of a row is {seed!r}, not a whole number: {HOW_TO_MAKE}."
        ) from None


def _decoded(value: Any, name: str) -> Any:
    """Decode a column of JSON text; in a column of structures each row would have the keys of all rows."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value) if value else None
    except orjson.JSONDecodeError:
        raise TrainingSetupError(f"'{name}' of a row is not JSON: {HOW_TO_MAKE}.") from None
