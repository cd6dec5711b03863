"""Drawing from a seed, where some seeds have nothing to give: every seed gets something, or none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from verl_agent_env.seeds import following_seed

T = TypeVar("T")


def draw_or_go_on(
    seed: int, draw: Callable[[int], T | None], example: Callable[[], T | None], tries: int
) -> T | None:
    """Draw from a seed, from the seeds that follow it where it has nothing, and take the example where none of them has.

    Whether there is anything depends on the arguments alone, which the example stands for, and never on the seed: an environment
    that began once begins with every seed. Equal seeds give equal results in every process.

    Args:
        seed: Drawn from first.
        draw: Gives what a seed has; None if it has nothing within the effort that is made for one.
        example: Gives what some fixed seed has; None if there is nothing for these arguments.
        tries: Seeds that are drawn from, this one included.

    Returns:
        None for every seed or for none.
    """
    otherwise = example()
    if otherwise is None:
        return None
    for _ in range(tries):
        found = draw(seed)
        if found is not None:
            return found
        seed = following_seed(seed)
    return otherwise


def first_of(draw: Callable[[int], T | None], tries: int) -> T | None:
    """Draw from fixed seeds, until one has something: the example of :func:`draw_or_go_on`."""
    return next((found for seed in range(tries) if (found := draw(seed)) is not None), None)
