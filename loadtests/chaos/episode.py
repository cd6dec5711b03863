"""One environment under chaos, as its client sees it, and whether it answers as a single process does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson

import verl_agent_env.interface as interface

ENV_NAME = "frozen_lake"
KWARGS: dict[str, Any] = {
    "desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"],
    "is_slippery": True,
    "max_steps": 100_000,
}
"""No holes: an episode ends at the goal only, and its steps depend on the seed."""
STEPS_PER_EPISODE = 50
_MOVES = ("left", "down", "up", "left")


@dataclass
class Episode:
    """One environment, as its client sees it."""

    env_id: str
    seed: int
    is_sampled: bool = True
    """Whether its answers are remembered, to be compared in the end."""
    seq: int = 0
    """Number of the next step."""
    actions: list[str] = field(default_factory=list)
    """Acknowledged ones."""
    digests: list[bytes] = field(default_factory=list)
    """Of the answers to them."""
    lost: str = ""
    """Code of the error that ended it before its time."""
    steps: int = 0
    """Acknowledged in all episodes."""
    earlier: list[tuple[int, list[str], list[bytes]]] = field(default_factory=list)
    """Seeds, actions and digests of the episodes before this one."""

    @property
    def is_over(self) -> bool:
        """Whether another episode should begin."""
        return self.seq >= STEPS_PER_EPISODE

    def begin(self) -> None:
        """Note that the next episode has begun."""
        if self.is_sampled:
            self.earlier.append((self.seed, self.actions, self.digests))
        self.seed += 1
        self.seq = 0
        self.actions, self.digests = [], []

    def next_action(self) -> str:
        """What to do next; the same until it is acknowledged."""
        return _MOVES[(self.seed + self.seq * 7) % len(_MOVES)]

    def acknowledge(self, answer: list[Any]) -> None:
        """Note the answer ``[observation, reward, terminated, truncated, info]`` to :meth:`next_action`."""
        if self.is_sampled:
            self.actions.append(self.next_action())
            self.digests.append(digest_of(answer))
        self.seq += 1
        self.steps += 1


def digest_of(answer: list[Any]) -> bytes:
    """Tells one answer from another."""
    return hashlib.blake2b(orjson.dumps(answer, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()


def differs_from_reference(episode: Episode) -> bool:
    """Whether any acknowledged answer, of any of its episodes, is not what a single process gives."""
    env_id = interface.initialize_environment(ENV_NAME, seed=episode.seed, env_kwargs=KWARGS)
    try:
        for seed, actions, digests in [*episode.earlier, (episode.seed, episode.actions, episode.digests)]:
            interface.reset(env_id, seed=seed)
            for action, digest in zip(actions, digests, strict=True):
                if digest_of(orjson.loads(orjson.dumps(list(interface.step(env_id, action))))) != digest:
                    return True
        return False
    finally:
        interface.close_environment(env_id)
