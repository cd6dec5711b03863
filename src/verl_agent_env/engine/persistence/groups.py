"""A group of writes that go to the store together, and who waits for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from verl_agent_env.engine.persistence.packing import LIMITS
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.wire.records import Write


class Group:
    """Writes of one moment; it ends when the store has said something of each, or put some of them off.

    A write that is put off goes on with another group, which :attr:`later` names.
    """

    __slots__ = (
        "errors",
        "generation",
        "is_asked_for",
        "is_done",
        "later",
        "overtakes",
        "size",
        "tokens",
        "waiting",
        "writes",
    )

    def __init__(self, generation: str) -> None:
        """An empty group of writes that are meant for the data set ``generation``."""
        self.generation = generation
        self.writes: list[Write] = []
        """Those that are not made yet."""
        self.overtakes = False
        """Whether it ends or begins environments: a full store takes the one, and says of the other at once that it does not.
        These have groups of their own, as long as the owners of all slots are known."""
        self.size = 0
        """Bytes of the writes."""
        self.tokens: dict[int, str | None] = {}
        """What proved that this worker owned the slots of the writes, when they were asked for."""
        self.is_asked_for = False
        """Whether a call has to be answered with it, where it is not known from its writes."""
        self.is_done = False
        self.errors: dict[str, VerlAgentEnvError] = {}
        """What became of environments whose writes were refused."""
        self.later: dict[str, Group] = {}
        """The groups that the writes of some environments go with now."""
        self.waiting: list[tuple[float, asyncio.Future[None]]] = []
        """Who waits for the end of the group, and until when."""

    @property
    def is_full(self) -> bool:
        """Whether one call of the log carries no more."""
        return len(self.writes) >= LIMITS.writes or self.size >= LIMITS.size

    def add(self, write: Write) -> None:
        """Add a write of a slot that :attr:`tokens` names."""
        self.writes.append(write)
        self.size += len(write.data)

    def finish(self) -> None:
        """End the group, and let everybody go on."""
        self.is_done = True
        for _, waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(None)
        self.waiting.clear()

    def expire(self, now: float, make_error: Callable[[], VerlAgentEnvError]) -> float:
        """Fail those whose deadline has passed; returns the next deadline, infinity if nobody is left."""
        left = []
        for item in self.waiting:
            deadline, waiting = item
            if waiting.done():
                continue
            if deadline <= now:
                waiting.set_exception(make_error())
            else:
                left.append(item)
        self.waiting = left
        return min((deadline for deadline, _ in left), default=math.inf)
