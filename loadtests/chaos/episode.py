"""One environment under chaos, as its client sees it, and whether it answers as a single process does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
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
RELEASE_MARK = "Release {}:\\n"
"""What a later release of the code sets before all that a lake shows; as it stands in a string of Python or JSON."""
_MOVES = ("left", "down", "up", "left")
_MARKS = re.compile(re.escape(RELEASE_MARK).replace(r"\{\}", r"(\d+)").encode())

Say = Callable[[str], Any]
"""How a move is sent to the server."""


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
    """Acknowledged moves."""
    digests: list[bytes] = field(default_factory=list)
    """Of the answers to them."""
    lost: str = ""
    """Code of the error that ended it before its time."""
    steps: int = 0
    """Acknowledged in all episodes."""
    earlier: list[tuple[int, list[str], list[bytes]]] = field(default_factory=list)
    """Seeds, actions and digests of the episodes before this one."""
    release: int = 0
    """Of the code that answered last."""
    say: Say = str
    """How its client sends a move."""

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

    def next_action(self) -> Any:
        """What to send next; the same until it is acknowledged."""
        return self.say(self._next_move())

    def acknowledge(self, answer: list[Any]) -> None:
        """Note the answer ``[observation, reward, terminated, truncated, info]`` to :meth:`next_action`."""
        if self.is_sampled:
            self.actions.append(self._next_move())
            self.digests.append(digest_of(answer))
            self.release = release_of(answer)
        self.seq += 1
        self.steps += 1

    def _next_move(self) -> str:
        return _MOVES[(self.seed + self.seq * 7) % len(_MOVES)]


def digest_of(answer: list[Any]) -> bytes:
    """Tells one answer from another, whatever the release that gave it."""
    text = _MARKS.sub(b"", orjson.dumps(answer, option=orjson.OPT_SORT_KEYS))
    return hashlib.blake2b(text, digest_size=8).digest()


def release_of(answer: list[Any]) -> int:
    """The number of the release that gave an answer; 0 for the first."""
    found = _MARKS.search(orjson.dumps(answer))
    return int(found[1]) if found else 0


def differs_from_reference(episode: Episode) -> bool:
    """Whether any acknowledged answer, of any of its episodes, is not what a single process gives."""
    env_id = interface.initialize_environment(ENV_NAME, seed=episode.seed, env_kwargs=KWARGS)
    try:
        for seed, actions, digests in [*episode.earlier, (episode.seed, episode.actions, episode.digests)]:
            interface.reset(env_id, seed=seed)
            for action, digest in zip(actions, digests, strict=True):
                if (
                    digest_of(orjson.loads(orjson.dumps(list(interface.step(env_id, episode.say(action))))))
                    != digest
                ):
                    return True
        return False
    finally:
        interface.close_environment(env_id)
