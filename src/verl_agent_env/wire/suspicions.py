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
"""``seq`` of the recovery of an environment on another worker."""
SUSPICION_S = 3600.0
"""Seconds for which a suspicion is published."""
MAX_SUSPICIONS = 1000
"""Largest number of suspicions; the oldest are dropped."""

Level = Literal["examined", "suspected", "alone", "refused"]
"""``examined``: the worker is silent, nothing is decided yet, and the environment is not recovered elsewhere. ``suspected``: the
call was running when its worker was killed from outside. ``alone``: the call was one of several that were running when
their worker crashed; they run one at a time. ``refused``: the call ended a worker; its environment never runs again."""


class CallId(NamedTuple):
    """Identifies a call on an environment."""

    env_id: str
    episode: int
    """Number of the present episode, or of the one that the call begins."""
    seq: int
    """Number of the step; :data:`BEGINNING` or :data:`RECOVERY` for other calls."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A call that has ended a worker, or may have."""

    env_id: str
    episode: int
    seq: int
    level: Level
    cause: str = ""
    """Description of the worker's end, for people."""
    lasts_s: float = SUSPICION_S
    """Seconds until the suspicion expires, from its publication."""

    @property
    def call(self) -> CallId:
        """The call."""
        return CallId(self.env_id, self.episode, self.seq)

    @property
    def key(self) -> str:
        """Key in the store. An examination has a key of its own, so that it does not replace a decided suspicion."""
        return examined_key(self.env_id) if self.level == "examined" else self.env_id

    def to_json(self) -> bytes:
        """Encode the suspicion."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Suspicion:
        """Decode what :meth:`to_json` wrote; fields of later versions are ignored."""
        return record_of(cls, text)


def examined_key(env_id: str) -> str:
    """Return the key of an examination."""
    return f"{env_id}?"


class Suspicions:
    """Suspicions known to one worker; looked up before an environment is created or recovered."""

    def __init__(
        self, inherited: Iterable[Suspicion] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create the set of suspicions.

        Args:
            inherited: Suspicions that the supervisor had when it started the worker; they never expire.
            clock: Seconds.
        """
        self._clock = clock
        self._inherited = {suspicion.key: suspicion for suspicion in inherited}
        self._published: dict[str, tuple[Suspicion, float]] = {}

    def replace(self, published: Mapping[str, Suspicion]) -> None:
        """Replace the published suspicions, by key."""
        now = self._clock()
        self._published = {key: (suspicion, now + suspicion.lasts_s) for key, suspicion in published.items()}

    def is_examined(self, env_id: str) -> bool:
        """Tell whether it is being examined that the environment hangs its worker."""
        return self._find(examined_key(env_id)) is not None

    def refusal(self, env_id: str) -> EnvironmentEndedWorkerError | None:
        """Return the error for calls on an environment that has ended a worker; None for any other environment."""
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
        keys = self._inherited.keys() | self._published.keys()
        return Counter(found.level for key in keys if (found := self._find(key)) is not None)

    def _find(self, key: str) -> Suspicion | None:
        published = self._published.get(key)
        if published is not None and published[1] > self._clock():
            return published[0]
        return self._inherited.get(key)
