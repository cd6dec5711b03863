"""Every error a caller can meet, each with a stable ``code``.

The server answers them as ``application/problem+json`` (RFC 9457), the client raises the same classes again.

::

    VerlAgentEnvError                     code                       status  retryable
    ├── RequestError
    │   ├── MalformedBodyError            malformed_body             400
    │   ├── MalformedHeadError            malformed_head             400
    │   ├── UnauthorizedError             unauthorized               401
    │   ├── InsufficientScopeError        insufficient_scope         403
    │   ├── HostNotAllowedError           host_not_allowed           403
    │   ├── OriginNotAllowedError         origin_not_allowed         403
    │   ├── RouteNotFoundError            not_found                  404
    │   ├── MethodNotAllowedError         method_not_allowed         405
    │   ├── HeaderTimeoutError            header_timeout             408     yes
    │   ├── BodyTimeoutError              body_timeout               408     yes
    │   ├── BodyTooLargeError             body_too_large             413
    │   ├── BodyTooComplexError           body_too_complex           413
    │   ├── BatchTooLargeError            batch_too_large            413
    │   ├── ActionTooLargeError           action_too_large           413
    │   ├── ArgumentsTooLargeError        arguments_too_large        413
    │   ├── AnswerTooLargeError           answer_too_large           413
    │   ├── BatchTooCostlyError           batch_too_costly           413
    │   ├── UrlTooLongError               url_too_long               414
    │   ├── HeadersTooLargeError          headers_too_large          431
    │   ├── ContentTypeNotAllowedError    content_type_not_allowed   415
    │   ├── ContentEncodingNotSupportedError content_encoding_not_supported 415
    │   ├── InvalidRequestError           invalid_request            422
    │   ├── UnknownEnvNameError           unknown_env_name           422
    │   ├── ExtraNotInstalledError        extra_not_installed        422
    │   ├── InvalidEnvArgumentsError      invalid_env_arguments      422
    │   ├── RenderModeError               render_mode_unsupported    422
    │   ├── UnknownSplitError             unknown_split              404
    │   ├── TaskNotFoundError             task_not_found             404
    │   ├── EpisodeNotFoundError          episode_not_found          404
    │   └── IdempotencyKeyReusedError     idempotency_key_reused     422
    ├── EnvironmentStateError
    │   ├── EnvironmentNotFoundError      environment_not_found      404
    │   ├── EnvironmentClosedError        environment_closed         404
    │   ├── EpisodeNotStartedError        episode_not_started        409
    │   ├── EpisodeEndedError             episode_ended              409
    │   ├── SequenceStaleError            sequence_stale             409
    │   ├── SequenceGapError              sequence_gap               409
    │   ├── SequenceConflictError         sequence_conflict          409
    │   ├── SeatError
    │   │   ├── UnknownSeatError          unknown_seat               422
    │   │   └── NotYourTurnError          not_your_turn              409
    │   ├── HistoryFullError              history_full               413
    │   ├── EnvironmentLostError          environment_lost           410
    │   ├── EnvironmentEndedWorkerError   environment_ended_worker   410
    │   ├── ReplayDivergedError           replay_diverged            410
    │   └── IncompatibleVersionError      incompatible_version       503     yes
    ├── CapacityError
    │   ├── RunQuotaExceededError         run_quota_exceeded         429     yes
    │   ├── TooManyAttemptsError          too_many_attempts          429     yes
    │   ├── AtCapacityError               at_capacity                503     yes
    │   ├── MemoryExhaustedError          out_of_memory              503     yes
    │   ├── NotReadyError                 not_ready                  503     yes
    │   └── ShuttingDownError             shutting_down              503     yes
    ├── ClusterError
    │   ├── WorkerNotAliveError           worker_not_alive           409
    │   ├── NameTakenError                worker_name_taken          409
    │   ├── SlotsDifferError              slots_differ               409
    │   ├── GenerationChangedError        store_generation_changed   503     yes
    │   ├── StoreUnavailableError         store_unavailable          503     yes
    │   │   ├── EventLogsDifferError      event_logs_differ          503     yes
    │   │   ├── StoreFullError            store_full                 503     yes
    │   │   └── RecoveryPendingError      recovery_pending           503     yes
    │   ├── NodeNotFoundError             node_not_found             404
    │   ├── MovedError                    moved                      421     yes
    │   └── WorkerUnreachableError        worker_unreachable         503     yes
    └── ExecutionError
        ├── EnvironmentFailedError        environment_failed         500
        ├── EnvironmentTimeoutError       environment_timeout        504
        ├── OutsideCallError              outside_call_failed        503     yes
        │   ├── EndpointUnavailableError  endpoint_unavailable       503     yes
        │   └── EndpointBudgetSpentError  endpoint_budget_spent      402
        └── InternalError                 internal_error             500
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

# In the order of the tree, which is that of `all_errors` and of the table in the documentation.
# isort: off
from verl_agent_env.errors.base import VerlAgentEnvError as VerlAgentEnvError
from verl_agent_env.errors.requests import *  # noqa: F403
from verl_agent_env.errors.environments import *  # noqa: F403
from verl_agent_env.errors.capacity import *  # noqa: F403
from verl_agent_env.errors.cluster import *  # noqa: F403
from verl_agent_env.errors.execution import *  # noqa: F403
from verl_agent_env.errors.execution import InternalError as InternalError

# isort: on


def all_errors() -> Iterator[type[VerlAgentEnvError]]:
    """Yield every concrete error class of the tree above, depth first."""
    pending: list[type[VerlAgentEnvError]] = [VerlAgentEnvError]
    while pending:
        cls = pending.pop()
        if cls.code:
            yield cls
        pending.extend(reversed(cls.__subclasses__()))


def error_from_problem(problem: Mapping[str, Any]) -> VerlAgentEnvError:
    """Return the error that a problem document describes; an unknown code becomes :class:`InternalError`."""
    cls, names = _class_and_fields(str(problem.get("code", "")))
    return cls(**{name: problem[name] for name in names if name in problem})


def error_from_body(body: bytes) -> VerlAgentEnvError | None:
    """Return the error in the body of a response; None if the body is no problem document of this project."""
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return error_from_problem(problem) if isinstance(problem, dict) and "code" in problem else None


# A batch can fail in each of its items, and the search for the class dominates the cost.
@functools.lru_cache(maxsize=256)
def _class_and_fields(code: str) -> tuple[type[VerlAgentEnvError], tuple[str, ...]]:
    cls = next((cls for cls in all_errors() if cls.code == code), InternalError)
    return cls, tuple(field.name for field in dataclasses.fields(cls))
