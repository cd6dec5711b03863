"""Readings of an environment right after a step or a reset, for its record."""

from __future__ import annotations

import msgspec


class Mark(msgspec.Struct, frozen=True, eq=False):
    """Reading of an environment, taken in the call that ran its code.

    Whatever of it fails and cannot be done without fails the call, before anything is noted or answered.
    """

    digest: bytes | None = None
    """Of a step that goes to a journal."""
    state: bytes | None = None
    """What the environment's ``snapshot`` gave, where it was asked for."""
    fault: BaseException | None = None
    """What its state raised, where the environment is kept without it as well."""
    effects: bytes | None = None
    """Outcomes of the calls to the outside that a reset made, as JSON, if there were any."""


NO_MARK = Mark()
