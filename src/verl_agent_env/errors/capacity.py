"""The server has no capacity for the call at present."""

from __future__ import annotations

from verl_agent_env.errors.base import VerlAgentEnvError


class CapacityError(VerlAgentEnvError, status=503, retryable=True):
    """The server has no room at present; try again after ``Retry-After`` seconds."""


class RunQuotaExceededError(CapacityError, code="run_quota_exceeded", status=429):
    """The run has ``max_envs_per_run`` environments already."""

    title = "The run has too many environments"
    detail_format = (
        "The run '{run_id}' would have more than {max_envs_per_run} environments; close some or raise "
        "max_envs_per_run."
    )
    run_id: str = ""
    max_envs_per_run: int = 0


class TooManyAttemptsError(CapacityError, code="too_many_attempts", status=429):
    """The address sent too many unknown tokens; tokens not seen before are rejected for now."""

    title = "Too many unknown tokens came from this address"
    detail_format = "Too many unknown tokens came from this address; try again in a few seconds, with a token that is known."
    retry_after_s = 5


class AtCapacityError(CapacityError, code="at_capacity"):
    """The worker holds as many environments as it may, or all its threads are busy with calls that timed out."""

    title = "The server is full"
    detail_format = "The server is full: the limit is {limit} {resource}; close some or add workers."
    resource: str = "environments"
    limit: int = 0


class MemoryExhaustedError(CapacityError, code="out_of_memory"):
    """The system gives the worker no more memory; what was asked for was not done."""

    title = "The worker is out of memory"
    detail_format = "The worker is out of memory; nothing was done. Send smaller requests, close environments, or give it more memory."
    retry_after_s = 5


class NotReadyError(CapacityError, code="not_ready"):
    """The worker takes no new work yet, or none any more; it goes on with what it has."""

    title = "The worker is not ready"
    detail_format = "The worker is not ready: {reason}."
    reason: str = ""


class ShuttingDownError(CapacityError, code="shutting_down"):
    """The server is shutting down and rejects new work."""

    title = "The server is shutting down"
    detail_format = "The server is shutting down; retry, another worker will answer."
