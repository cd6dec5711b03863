"""How long a call may wait for anything but its own environment's computation: one rule, and its numbers.

Nobody waits longer than :data:`MAX_WAIT_S` in all. Each thing that a call may wait for has a limit of its own, which
counts from the moment at which this caller began to wait for it; what one call can meet one after the other adds up to
no more than that. A call that meets a limit fails with a typed, retryable error; what others wait for goes on.
"""

MAX_WAIT_S = 30.0
"""The most that one call may wait."""

OWNER_S = 5.0
"""How long a call looks for the owner of a slot that is changing hands; time that a worker is at work on it is none."""

PEER_LOOK_S = 1.0
"""How long a call to another worker may last before it is looked whether that one is still there, and then again."""

PEER_SILENCE_S = 7.0
"""How long a worker that has a call may give no sign of life."""

RECOVERY_S = 5.0
"""How long a call waits for environments that are brought back, while none of them comes."""

RUN_S = 20.0
"""How long the closing of a run waits until all environments are back that may belong to it."""

PLACE_S = 8.0
"""How long a call waits for a thread while others' calls have all of them for that time."""

STORE_S = 5.0
"""How long an answer waits until what it tells of is in the store."""

HAND_OVER_S = 1.0
"""How long slots stand still, before they are handed over, until all that is known of them is in the store."""
