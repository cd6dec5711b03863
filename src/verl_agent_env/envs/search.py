"""Search of environments by words, tags and cost, without importing any."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from verl_agent_env.envs.spec import EnvSpec


def find(
    specs: Iterable[EnvSpec],
    words: Collection[str] = (),
    tags: Collection[str] = (),
    max_ms: float | None = None,
) -> list[EnvSpec]:
    """Return the matching environments, in the given order.

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
