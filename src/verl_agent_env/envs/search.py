"""Search of environments by words, tags and cost, and the rows that a list of them shows."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

from verl_agent_env.envs.registry import Registry
from verl_agent_env.envs.spec import EnvSpec


def find(
    specs: Iterable[EnvSpec],
    words: Collection[str] = (),
    tags: Collection[str] = (),
    max_ms: float | None = None,
) -> list[EnvSpec]:
    """Return the matching environments, in the given order; none is imported.

    Args:
        specs: Environments to search.
        words: Words that all occur in the name, the description or a tag, in any case.
        tags: Tags that an environment must all have.
        max_ms: Limit of the measured time of the most expensive call; unmeasured environments do not match.
    """
    wanted = [word.casefold() for word in words]
    return [spec for spec in specs if _fits(spec, wanted, tags, max_ms)]


def _fits(spec: EnvSpec, words: Collection[str], tags: Collection[str], max_ms: float | None) -> bool:
    if not set(tags) <= set(spec.tags):
        return False
    if max_ms is not None and (spec.costs is None or spec.costs.highest_ms > max_ms):
        return False
    text = " ".join([spec.name, spec.description, *spec.tags]).casefold()
    return all(word in text for word in words)


def rows(specs: Iterable[EnvSpec], registry: Registry) -> list[dict[str, Any]]:
    """Return a row for each environment: its name, description, tags, costs, extra, what it is a preset of, and whether it is
    installed."""
    here = set(registry.names())
    return [{**row(spec, registry), "installed": spec.name in here} for spec in specs]


def row(spec: EnvSpec, registry: Registry) -> dict[str, Any]:
    """Describe an environment; a package of the catalogue is not imported for it."""
    description = spec.description
    if not description and spec.family is None:
        with contextlib.suppress(Exception):
            description = registry.kind(spec.name).description
    preset_of = registry.preset_of(spec)
    return {
        "name": spec.name,
        "description": description,
        "tags": list(spec.tags),
        "costs": None if spec.costs is None else dataclasses.asdict(spec.costs),
        "extra": None if spec.family is None else spec.family.extra,
        "family": preset_of or spec.name,
        "preset_of": preset_of,
        "presets": dict(spec.presets),
    }
