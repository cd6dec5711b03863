"""Finds environments by words, tags and cost, without importing any."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from verl_agent_env.envs.spec import EnvSpec


def find(
    specs: Iterable[EnvSpec],
    words: Collection[str] = (),
    tags: Collection[str] = (),
    max_ms: float | None = None,
) -> list[EnvSpec]:
    """The environments that fit, in the order given.

    Args:
        specs: Those to look through.
        words: All of them stand in the name, the description or a tag, in whatever case.
        tags: Of each environment, all of them.
        max_ms: What its dearest call was measured to take at most; what was not measured does not fit.
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
