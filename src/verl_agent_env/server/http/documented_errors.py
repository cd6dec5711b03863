"""Errors that calls have in common, as the OpenAPI document lists them."""

from __future__ import annotations

from verl_agent_env import errors as e

BODY = (e.MalformedBodyError, e.BodyTimeoutError, e.BodyTooLargeError, e.InvalidRequestError)
BATCH = (*BODY, e.BatchTooLargeError)
TASK = (e.UnknownSplitError, e.TaskNotFoundError)
LIVE = (
    e.EnvironmentNotFoundError,
    e.EnvironmentClosedError,
    e.EnvironmentLostError,
    e.EnvironmentEndedWorkerError,
    e.IncompatibleVersionError,
)
RUN = (
    e.EnvironmentFailedError,
    e.EnvironmentTimeoutError,
    e.OutsideCallError,
    e.EndpointUnavailableError,
    e.EndpointBudgetSpentError,
    e.AtCapacityError,
)
MAKE = (
    e.UnknownEnvNameError,
    e.InvalidEnvArgumentsError,
    e.ArgumentsTooLargeError,
    e.RunQuotaExceededError,
    e.IdempotencyKeyReusedError,
    e.EnvironmentEndedWorkerError,
    *RUN,
)
SEQUENCE = (
    e.SequenceStaleError,
    e.SequenceGapError,
    e.SequenceConflictError,
    e.EpisodeEndedError,
    e.UnknownSeatError,
    e.NotYourTurnError,
    e.HistoryFullError,
)
