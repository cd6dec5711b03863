"""Names of the headers that clients and workers send, in lower case."""

KEY_HEADER = b"idempotency-key"
"""Makes a call that creates environments repeatable."""

OPERATION_HEADER = b"x-operation-id"
"""Names a request for good: one that is sent again, by nginx or by a worker, has the same."""

HOP_HEADER = b"x-env-hop"
"""Marks a call that was forwarded once and is not forwarded again."""

PEER_HEADER = b"x-env-peer"
"""Shows that a call comes from another worker."""

PRINCIPAL_HEADER = b"x-env-principal"
"""On whose behalf another worker calls; from anybody else it counts for nothing."""

ANSWER_SHARE_HEADER = b"x-answer-share"
"""On a part of a batch: which part of ``max_answer_bytes`` its answers may take. Without it, all."""
