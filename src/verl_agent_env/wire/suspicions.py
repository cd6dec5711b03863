"""Suspicions: records of calls that may have ended a worker's process, which all workers read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

from verl_agent_env.errors import EnvironmentEndedWorkerError
from verl_agent_env.wire.records import record_of

BEGINNING = -1
"""``seq`` of a call that begins an episode."""
RECOVERY = -2
"""``seq`` of what brings an environment back on another worker."""
SUSPICION_S = 3600.0
"""How long workers are told of a suspicion."""
MAX_SUSPICIONS = 1000
"""How many are kept; the oldest go."""

Level = Literal["examined", "suspected", "alone", "refused"]
"""``examined``: its worker is silent, nothing is decided yet, and the environment is begun nowhere else. ``suspected``: it was
under way when its worker was killed from outside. ``alone``: it was one of several under way when their worker crashed; they
run one at a time. ``refused``: it ended a worker; no code of its environment is run again."""


class CallId(NamedTuple):
    """Which call on which environment."""

    env_id: str
    episode: int
    """The present one, or the one that the call begins."""
    seq: int
    """Number of the step; :data:`BEGINNING` or :data:`RECOVERY` for other calls."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One call, and what is held against it."""

    env_id: str
    episode: int
    seq: int
    level: Level
    cause: str = ""
    """How the worker ended, for people."""
    lasts_s: float = SUSPICION_S
    """How long it holds, from when it is told."""

    @property
    def call(self) -> CallId:
        """Which call it is."""
        return CallId(self.env_id, self.episode, self.seq)

    @property
    def key(self) -> str:
        """Under what it is kept: what an environment is examined for takes nothing away of what is known already."""
        return examined_key(self.env_id) if self.level == "examined" else self.env_id

    def to_json(self) -> bytes:
        """The suspicion as it is kept."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Suspicion:
        """The suspicion that :meth:`to_json` wrote; fields of a later version are passed over."""
        return record_of(cls, text)


def examined_key(env_id: str) -> str:
    """The key of what an environment is examined for."""
    return f"{env_id}?"


class Suspicions:
    """Suspicions that one worker knows at the moment; looked up where an environment is made or recovered."""

    def __init__(
        self, inherited: Iterable[Suspicion] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Know what the worker's supervisor had found out before it started the worker.

        Args:
            inherited: Known as long as the worker lives, whatever it is told.
            clock: Seconds.
        """
        self._clock = clock
        self._inherited = {suspicion.key: suspicion for suspicion in inherited}
        self._told: dict[str, tuple[Suspicion, float]] = {}

    def heed(self, told: Mapping[str, Suspicion]) -> None:
        """Take in all that there is, by key, in place of what was told before."""
        now = self._clock()
        self._told = {key: (suspicion, now + suspicion.lasts_s) for key, suspicion in told.items()}

    def is_examined(self, env_id: str) -> bool:
        """Tell whether it is still being examined if the environment hangs its worker."""
        return self._find(examined_key(env_id)) is not None

    def refusal(self, env_id: str) -> EnvironmentEndedWorkerError | None:
        """Give the error of every call on an environment that ended a worker; None for any other environment."""
        found = self._find(env_id)
        if found is None or found.level != "refused":
            return None
        return EnvironmentEndedWorkerError(env_id, found.episode, found.seq, found.cause)

    def runs_alone(self, call: CallId) -> bool:
        """Tell whether no other suspected call may run beside this one."""
        found = self._find(call.env_id)
        return found is not None and found.level == "alone" and found.call == call

    def counts(self) -> Counter[str]:
        """Count them by level."""
        keys = self._inherited.keys() | self._told.keys()
        return Counter(found.level for key in keys if (found := self._find(key)) is not None)

    def _find(self, key: str) -> Suspicion | None:
        told = self._told.get(key)
        if told is not None and told[1] > self._clock():
            return told[0]
        return self._inherited.get(key)
