"""A group of writes that go to the store together, and who waits for them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

from verl_agent_env.engine.group_commit.packing import LIMITS
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.wire.records import Write

logger = logging.getLogger(__name__)

OnEnd = Callable[["VerlAgentEnvError | None"], None]
"""Called once: at the end of a group with None, or with an error at the deadline of whoever waits for it."""


class Group:
    """Writes of one moment; it ends when the store has said something of each, or put some of them off.

    A write that is put off goes on with another group, which :attr:`later` names.
    """

    __slots__ = (
        "errors",
        "generation",
        "held",
        "is_asked_for",
        "is_done",
        "later",
        "overtakes",
        "size",
        "waiting",
        "writes",
    )

    def __init__(self, generation: str, held: Mapping[int, str | None] | None = None) -> None:
        """An empty group of writes.

        Args:
            generation: The data set that they are meant for.
            held: What proved that this worker owned their slots, when they were asked for; it may name other slots, too.
        """
        self.generation = generation
        self.held: Mapping[int, str | None] = {} if held is None else held
        self.writes: list[Write] = []
        """Those that are not made yet."""
        self.overtakes = False
        """Whether it ends or begins environments: a full store takes the one, and says of the other at once that it does not.
        These have groups of their own, as long as the owners of all slots are known."""
        self.size = 0
        """Bytes of the writes."""
        self.is_asked_for = False
        """Whether a call has to be answered with it, where it is not known from its writes."""
        self.is_done = False
        self.errors: dict[str, VerlAgentEnvError] = {}
        """What became of environments whose writes were refused."""
        self.later: dict[str, Group] = {}
        """The groups that the writes of some environments go with now."""
        self.waiting: list[tuple[float, OnEnd]] = []
        """What to call at the end of the group, each with its deadline."""

    @property
    def is_full(self) -> bool:
        """True if one call of the log carries no more."""
        return len(self.writes) >= LIMITS.writes or self.size >= LIMITS.size

    @property
    def is_settled(self) -> bool:
        """True if all of its writes are made, unchanged."""
        return self.is_done and not self.errors and not self.later

    def slots(self) -> set[int]:
        """The slots of the writes that are not made yet."""
        return {write.slot for write in self.writes}

    def add(self, write: Write) -> None:
        """Add a write of a slot that :attr:`held` names."""
        self.writes.append(write)
        self.size += len(write.data)

    def finish(self) -> None:
        """End the group, and let everybody go on."""
        self.is_done = True
        waiting, self.waiting = self.waiting, []
        for _, on_end in waiting:
            _call(on_end, None)

    def expire(self, now: float, make_error: Callable[[], VerlAgentEnvError]) -> float:
        """Fail those whose deadline has passed; returns the next deadline, infinity if nobody is left."""
        late = [on_end for deadline, on_end in self.waiting if deadline <= now]
        self.waiting = [item for item in self.waiting if item[0] > now]
        for on_end in late:
            _call(on_end, make_error())
        return min((deadline for deadline, _ in self.waiting), default=math.inf)


def _call(on_end: OnEnd, error: VerlAgentEnvError | None) -> None:
    """Let somebody go on; a defect there stops nobody else, nor the writing."""
    try:
        on_end(error)
    except Exception:
        logger.exception("delivering an answer after its group commit failed")
