"""Persistence of live environments outside this process, and their recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from verl_agent_env import waits
from verl_agent_env.engine.persistence.recorder import LogShard, Recorder
from verl_agent_env.engine.persistence.recovery import Recovery
from verl_agent_env.engine.persistence.slot_ownership import SlotOwnership
from verl_agent_env.envs.base import Durability
from verl_agent_env.wire.event_log import HistoryReader


@dataclass(frozen=True)
class PersistenceOptions:
    """Options of persistence: the log, slot ownership, and durabilities by env name."""

    log: HistoryReader
    """Where their history is read."""
    ownership: SlotOwnership
    """The slots of this worker: only their environments are its own."""
    shards: Sequence[LogShard]
    """Where it is written: one log, or several in their order, each with the slots that are written to it."""
    durabilities: Mapping[str, Durability] = field(default_factory=dict)
    """How to keep environments of these names, where it is not as their kinds have it."""
    patience_s: float = waits.STORE_S
    """How long an answer waits until what it tells of is in the log."""


class Persistence(NamedTuple):
    """The two halves of what keeps one host's environments outside its process."""

    recorder: Recorder
    recovery: Recovery
