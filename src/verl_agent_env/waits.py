"""Time limits of a call's waits, other than for its own environment's computation.

A call waits at most :data:`MAX_WAIT_S` in all. Each kind of wait has a limit of its own, counted from the moment at which
this call began to wait; the limits of consecutive waits add up to no more than that. A call that exceeds a limit fails
with a typed, retryable error; other calls keep waiting.
"""

MAX_WAIT_S = 30.0
"""Limit of all waits of one call together."""

OWNER_S = 5.0
"""Limit of the search for the owner of a slot that is being handed over; the owner's computation does not count."""

PEER_LOOK_S = 1.0
"""Period of the liveness checks of another worker while a call to it lasts."""

PEER_SILENCE_S = 7.0
"""Limit of a worker's silence while it has a call."""

RECOVERY_S = 5.0
"""Limit of the wait for recovering environments while none of them becomes live."""

RUN_S = 20.0
"""Limit of the wait of closing a run for the recovery of all environments that may belong to the run."""

SEAT_S = 20.0
"""Limit of the wait of a seat's player until its turn comes; the player asks again."""

PLACE_S = 8.0
"""Limit of the wait for a thread while calls of others occupy all threads."""

STORE_S = 5.0
"""Limit of the wait of a response until its effects are durable in the store."""

HAND_OVER_S = 1.0
"""Limit of the pause of slots, before their handover, until all their writes are durable."""
