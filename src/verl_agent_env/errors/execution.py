"""The call was accepted, and failed while it was carried out."""

from __future__ import annotations

from verl_agent_env.errors.base import VerlAgentEnvError


class ExecutionError(VerlAgentEnvError):
    """The call was accepted but could not be carried out."""


class EnvironmentFailedError(ExecutionError, code="environment_failed"):
    """The environment's own code raised; its state is unchanged."""

    title = "The environment raised an error"
    detail_format = (
        "The environment raised {error}; the call was not applied. The server's log has the traceback."
    )
    env_id: str = ""
    error: str = ""
    """Type of the exception; only the server's log has its text."""


class EnvironmentTimeoutError(ExecutionError, code="environment_timeout", status=504):
    """The environment took longer than ``max_step_s``; its state is unchanged."""

    title = "The environment took too long"
    detail_format = "The environment took longer than {max_step_s:g} s; the call was not applied."
    env_id: str = ""
    max_step_s: float = 0.0


class OutsideCallError(ExecutionError, code="outside_call_failed", status=503, retryable=True):
    """A call of the environment to the outside failed: a model, a program, another server; the call was not applied."""

    title = "Something that the environment calls does not answer"
    detail_format = (
        "The environment called something that failed: {reason}. The call was not applied; send it again."
    )
    reason: str = ""


class EndpointUnavailableError(OutsideCallError, code="endpoint_unavailable"):
    """The model did not answer in time, or not in the form that it was asked for."""

    title = "A model that the environment asks is unavailable"
    detail_format = "The model endpoint '{endpoint}' {reason}; the call was not applied. Try again."
    retry_after_s = 5
    endpoint: str = ""


class EndpointBudgetSpentError(OutsideCallError, code="endpoint_budget_spent", status=402, retryable=False):
    """The worker asked the model as often as its operator allows."""

    title = "The budget of a model endpoint is spent"
    detail_format = (
        "The model endpoint '{endpoint}' was asked {max_requests} times, which is all that max_requests allows; the call was "
        "not applied. Raise max_requests in the file of endpoints."
    )
    endpoint: str = ""
    max_requests: int = 0


class InternalError(ExecutionError, code="internal_error"):
    """A defect of the server itself."""

    title = "The server failed"
    detail_format = "The server failed; its log has the traceback under this request's id."
