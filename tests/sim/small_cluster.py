"""The simulated cluster's log carries little in one call, so that groups, what is re-persisted and reads have to be cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.sim.wires import LIMITS
from verl_agent_env.cluster.memory import log as memory_log
from verl_agent_env.engine.group_commit import groups, packing
from verl_agent_env.engine.persistence import journal


@contextmanager
def small_cluster() -> Iterator[None]:
    """Have calls of the log that carry little."""
    with pytest.MonkeyPatch.context() as patch:
        # Groups, what is re-persisted and reads have to be cut.
        for module in (groups, journal):
            patch.setattr(module, "LIMITS", LIMITS)
        patch.setattr(packing.pack, "__defaults__", (LIMITS,))
        patch.setattr(memory_log, "MAX_LOADED", 2)
        patch.setattr(memory_log, "ENOUGH_LOADED_BYTES", 300)
        yield
